"""Sinks in the settings: what is taken, and one line for each mistake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents.hooks import make_sink
from agents.hooks.testing import example_events
from config.settings import PluginSinkSettings, SettingsError, load_settings
from streams.events import SandboxEvent
from streams.ids import format_team_id

HERE = __name__
TEAM = format_team_id(example_events(1)[0].team_id)  # type: ignore[arg-type]


class Recording:
    """A sink without options."""

    def __init__(self, name: str) -> None:
        self.got: list[str] = []

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        self.got.append(event.delivery_id)


class WithDataclass:
    @dataclass
    class Options:
        count: int
        password: SecretStr
        colour: str = "red"

    def __init__(self, name: str, options: Options) -> None:
        if options.colour == "broken":
            raise RuntimeError(options.password.get_secret_value())

    async def on_sandbox_event(self, event: SandboxEvent) -> None: ...


class InBatches(Recording):
    on_sandbox_event = None  # type: ignore[assignment]


class NoSink:
    pass


def entry(**given: Any) -> dict[str, Any]:
    return {"name": "s", "type": f"{HERE}:Recording"} | given


def load(cwd: Path, *entries: Mapping[str, Any], **environ: str) -> tuple[PluginSinkSettings, ...]:
    settings = load_settings({"CAPSULES_SINKS": json.dumps(entries), **environ}, cwd=cwd)
    return settings.sinks  # type: ignore[return-value]


def mistakes(cwd: Path, *entries: Mapping[str, Any], **environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(cwd, *entries, **environ)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"type": "postgers"}, "CAPSULES_SINKS[0]: expected a type of .*did you mean postgres"),
        ({"type": "no_module:Sink"}, "CAPSULES_SINKS[0]: expected 'no_module:Sink' to be import"),
        ({"type": f"{HERE}:Nothing"}, "to be a class with on_sandbox_event"),
        ({"type": f"{HERE}:NoSink"}, "to be a class with on_sandbox_event"),
        ({"options": {"a": 1}}, r"CAPSULES_SINKS[0].options.a: no such option"),
        ({"options": 7}, "CAPSULES_SINKS[0].options='7': expected"),
        ({"events": ["create"]}, "CAPSULES_SINKS[0].events[0]='create': expected to be 'created'"),
        ({"events": []}, "CAPSULES_SINKS[0].events: expected at least one"),
        ({"teams": ["team-1"]}, "CAPSULES_SINKS[0].teams[0]='team-1': expected the id of a team"),
        ({"teams": ["team-" + "z" * 25]}, "below 2^128"),
        ({"timeout_s": 0}, "CAPSULES_SINKS[0].timeout_s='0': expected to be greater than 0"),
        ({"concurrency": 0}, "CAPSULES_SINKS[0].concurrency='0': "),
        ({"batch_max_age_s": 0}, "CAPSULES_SINKS[0].batch_max_age_s='0': "),
        ({"retries": 3}, "CAPSULES_SINKS[0].retries: no such setting"),
        ({"rate_limit_per_s": 0}, "CAPSULES_SINKS[0].rate_limit_per_s='0': expected to be greater"),
        ({"backlog_max": 0}, "CAPSULES_SINKS[0].backlog_max='0': expected to be greater"),
        ({"at_backlog_max": "drop"}, "at_backlog_max='drop': expected to be 'hold'"),
        ({"breaker_failures": 0}, "CAPSULES_SINKS[0].breaker_failures='0': "),
        ({"breaker_pause_s": "inf"}, "CAPSULES_SINKS[0].breaker_pause_s='inf': "),
        ({"ordered": "maybe"}, "CAPSULES_SINKS[0].ordered='maybe': expected to be a valid boolean"),
        ({"retry_pause_min_s": 90}, "retry_pause_max_s='60.0': expected at least retry_"),
        ({"type": "log", "breaker_failure": 3}, "did you mean breaker_failures"),
    ],
)
def test_a_mistake_is_one_line(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, entry(**given))
    start, _, end = told.partition(".*")
    assert start in line
    assert end in line


def test_all_mistakes_in_options_are_told_at_once(tmp_path: Path) -> None:
    lines = mistakes(
        tmp_path,
        entry(type=f"{HERE}:WithDataclass", options={"count": "many", "colur": "blue"}),
        entry(name="p", type="postgres", options={"url": "mysql://u:s3cret@h/d", "table": ""}),
    )
    assert sorted(line.split("=")[0].split(":")[0] for line in lines) == [
        "CAPSULES_SINKS[0].options.colur",
        "CAPSULES_SINKS[0].options.count",
        "CAPSULES_SINKS[0].options.password",
        "CAPSULES_SINKS[1].options.table",
        "CAPSULES_SINKS[1].options.url",
    ]
    assert any(line.endswith("no such option; did you mean colour?") for line in lines)
    assert "s3cret" not in "".join(lines)


def test_an_option_comes_from_a_variable_or_a_file_and_is_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("3\n")
    options = {"count_file": "count", "password_env": "CAPSULES_ANY_NAME"}
    (sink,) = load(
        tmp_path,
        entry(type=f"{HERE}:WithDataclass", options=options),
        CAPSULES_ANY_NAME="s3cret",
    )
    assert sink.options == {"count": "3", "password": "s3cret"}
    assert "s3cret" not in repr(sink) + str(sink) + repr(make_sink(sink).sink)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"count": 1, "password_env": "NOT_SET"}, "password_env='NOT_SET': expected the name of"),
        ({"count": 1, "password_file": "none"}, "password_file='none': expected a file that"),
        ({"count": 1, "password": "s3cret", "password_env": "P"}, "expected once, but given twice"),
        ({"count_env": "P", "password": "s3cret"}, "options.count: expected to be a valid integer"),
        ({"count": 1, "password": ["s3cret"]}, "options.password: expected to be a valid string"),
    ],
)
def test_no_mistake_shows_a_secret(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    given = entry(type=f"{HERE}:WithDataclass", options=options)
    lines = mistakes(tmp_path, given, P="s3cret")
    assert told in "".join(lines)
    assert "s3cret" not in "".join(lines)


def test_a_sink_that_cannot_be_made_is_a_mistake_that_quotes_nothing(tmp_path: Path) -> None:
    options = {"count": 1, "password": "s3cret", "colour": "broken"}
    (sink,) = load(tmp_path, entry(type=f"{HERE}:WithDataclass", options=options))
    with pytest.raises(SettingsError, match=r"^sink s: RuntimeError when it was made$"):
        make_sink(sink)


async def test_a_sink_is_told_only_what_it_wants(tmp_path: Path) -> None:
    events = example_events(8)
    (sink,) = load(tmp_path, entry(events=["paused", "created"], teams=[TEAM]))
    made = make_sink(sink)
    for event in events:
        await made.sink.on_sandbox_event(event)

    plugin = made.sink._sink._plugin  # type: ignore[attr-defined]
    wanted = [e for e in events if e.type in ("paused", "created") and e.team_id is not None]
    assert plugin.got == [event.delivery_id for event in wanted]
    assert 0 < len(wanted) < len([e for e in events if e.type in ("paused", "created")])


def test_a_sink_of_batches_has_as_many_deliveries_under_way_as_a_batch_needs(
    tmp_path: Path,
) -> None:
    url = "https://audit.example/ingest"
    batch = entry(type="http-batch", options={"url": url}, batch_max_events=50)
    (sink,) = load(tmp_path, batch)
    assert make_sink(sink).concurrency == 100
    (sink,) = load(tmp_path, batch | {"concurrency": 10})
    with pytest.raises(SettingsError, match="at least batch_max_events, which is 50"):
        make_sink(sink)


WRENN = {"name": "w", "type": "webhook", "url": "https://w.example/", "scheme": "wrenn"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"secret": "short"}, "CAPSULES_SINKS[0]: secret: expected at least 16 characters"),
        ({"secret_env": "S"}, "[0].secret_env='S': what it refers to: expected at least 16"),
        ({"secret": "x" * 16, "next_secret": "short"}, "next_secret: expected at least 16"),
        (
            {"secret": "x" * 16, "next_secret": "y" * 16, "next_secret_env": "S"},
            "expected at most one of next_secret, next_secret_env and next_secret_file",
        ),
        (
            {"secret": "x" * 16, "allow_private": 1},
            "allow_private='1': expected to be a valid bool",
        ),
    ],
)
def test_a_webhooks_secrets_fit_its_scheme(
    given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    lines = mistakes(tmp_path, WRENN | given, S="small")
    assert told in "".join(lines)
    assert "short" not in "".join(lines)
    assert "small" not in "".join(lines)
