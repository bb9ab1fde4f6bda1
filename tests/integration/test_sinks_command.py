"""``sinks list``, ``check`` and ``test`` as an operator or a script calls them."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streams.events import SandboxEvent
from tests.command_line import run_command
from tests.integration.webhook_receiver import (
    PASSWORD,
    SECRET,
    TOKEN,
    Receiver,
    answering,
    running_receiver,
)

ROOT = Path(__file__).parents[2]
TEAM = "team-0000000000000000000000007"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


def written(directory: Path, *sinks: dict[str, Any]) -> Path:
    """Make a directory such as an operator's, with the example beside its settings."""
    shutil.copy(ROOT / "examples" / "sqlite_sink.py", directory / "my_sinks.py")
    settings = {"CAPSULES_SINKS": json.dumps(sinks)}
    (directory / "settings.json").write_text(json.dumps(settings))
    return directory


async def sinks(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = json.loads((directory / "settings.json").read_text())
    return await asyncio.to_thread(run_command, directory, settings, "sinks", *arguments)


def webhook(receiver: Receiver, **more: Any) -> dict[str, Any]:
    given = {"name": "hook", "type": "webhook", "url": receiver.url(), "secret": SECRET}
    return given | {"allow_private": True} | more


def sqlite(directory: Path, **more: Any) -> dict[str, Any]:
    options = {"path": str(directory / "events.db")}
    return {"name": "file", "type": "my_sinks:SqliteSink", "options": options} | more


async def test_list_shows_what_is_configured_and_no_secret(
    receiver: Receiver, tmp_path: Path
) -> None:
    redis_sink = {
        "name": "feed",
        "type": "redis-stream",
        "options": {"url": f"redis://u:{PASSWORD}@redis.example/0", "stream": "out"},
    }
    log = {"name": "log", "type": "log", "events": ["paused"]}
    here = written(tmp_path, webhook(receiver), redis_sink, log, sqlite(tmp_path))

    as_table, as_json = await sinks(here, "list"), await sinks(here, "list", "--json")

    assert (as_table.returncode, as_json.returncode) == (0, 0)
    document = json.loads(as_json.stdout)
    assert document["version"] == 1
    assert [(s["name"], s["type"], s["target"]) for s in document["sinks"]] == [
        ("hook", "webhook", f"http://127.0.0.1:{receiver.port}"),
        ("feed", "redis-stream", "redis://redis.example/0 out"),
        ("log", "log", "the log"),
        ("file", "my_sinks:SqliteSink", ""),
    ]
    assert document["sinks"][2]["events"] == ["paused"]
    for secret in (SECRET, PASSWORD, TOKEN):
        assert secret not in as_table.stdout + as_table.stderr + as_json.stdout


async def test_check_says_which_target_does_not_answer(
    receiver: Receiver, tmp_path: Path, unused_tcp_port: int
) -> None:
    gone = webhook(receiver, name="gone", url=f"http://127.0.0.1:{unused_tcp_port}/")
    inside = webhook(receiver, name="inside", allow_private=False)
    here = written(tmp_path, webhook(receiver), gone, inside, sqlite(tmp_path))

    every, good = await sinks(here, "check", "--json"), await sinks(here, "check", "hook", "file")

    assert (every.returncode, good.returncode) == (1, 0)
    outcomes = {s["name"]: s["error"] for s in json.loads(every.stdout)["sinks"]}
    assert outcomes == {
        "hook": None,
        "gone": "ClientConnectorError",
        "inside": "the host's address is not public, and allow_private is off",
        "file": None,
    }
    assert {request.body for request in receiver.received} == {b""}


async def test_test_sends_one_marked_event_that_the_sink_wants(tmp_path: Path) -> None:
    here = written(tmp_path, sqlite(tmp_path, events=["destroyed"], teams=[TEAM]))

    first, second = await sinks(here, "test", "file", "--json"), await sinks(here, "test", "file")

    assert (first.returncode, second.returncode) == (0, 0)
    with closing(sqlite3.connect(here / "events.db")) as file:
        rows = file.execute("select id, event from events order by rowid").fetchall()
    event = SandboxEvent.from_bytes(rows[0][1])
    assert len(rows) == 2
    assert json.loads(first.stdout)["delivery_id"] == event.delivery_id == rows[0][0]
    assert event.delivery_id.startswith("test-")
    assert (event.type, event.metadata) == ("destroyed", {"test": "true"})
    assert event.team_id is not None
    assert event.team_id.int == 7


async def test_a_test_event_that_is_refused_is_told(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = answering(410)
    here = written(tmp_path, webhook(receiver))

    done = await sinks(here, "test", "hook")

    assert done.returncode == 1
    assert "FAILED: HTTP 410" in done.stdout
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *(("test",), ("test", "nope"), ("check", "nope"), ("list", "x"), ("prod",)),
        *(("pause",), ("pause", "nope"), ("resume", "nope")),
    ],
)
async def test_a_line_that_makes_no_sense_ends_with_2(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = await sinks(written(tmp_path, sqlite(tmp_path)), *arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert not (tmp_path / "events.db").exists()


async def test_settings_that_are_wrong_stop_each_command(tmp_path: Path) -> None:
    wrong = sqlite(tmp_path, options={"paht": "x"})
    done = await sinks(written(tmp_path, wrong), "list")

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "CAPSULES_SINKS[0].options.paht: no such option; did you mean path?",
        "CAPSULES_SINKS[0].options.path: expected, but not given",
    ]
