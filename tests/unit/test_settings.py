"""Settings: what is accepted, where it comes from, and that each mistake is told in one line."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pydantic
import pytest

from config.settings import (
    LogSinkSettings,
    Settings,
    SettingsError,
    WebhookSinkSettings,
    env_name,
    load_settings,
)

KEY = "whsec_" + base64.b64encode(bytes(range(32))).decode()
WEBHOOK = {"type": "webhook", "name": "billing", "url": "https://billing.example/hook"}


def mistakes(environ: Mapping[str, str], cwd: Path) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, cwd=cwd)
    assert str(caught.value).split("\n") == list(caught.value.mistakes)
    return caught.value.mistakes


def sinks(*entries: Mapping[str, object]) -> dict[str, str]:
    return {"CAPSULES_SINKS": json.dumps(entries)}


def test_nothing_set_means_embedded_servers_and_no_sinks(tmp_path: Path) -> None:
    settings = load_settings({}, cwd=tmp_path)
    assert (settings.redis_url, settings.database_url) == ("embedded", "embedded")
    assert (settings.app_id, settings.source_stream, settings.source_start_id) == (
        "wrenn-sandbox-reconciler-v1",
        "wrenn:events",
        "$",
    )
    assert (settings.partitions, settings.lease_s, settings.web_port) == (16, 10.0, 0)
    assert settings.sinks == ()
    assert settings.data_dir == tmp_path / ".data"


def test_the_names_of_the_control_plane_have_no_prefix() -> None:
    assert env_name("redis_url") == "REDIS_URL"
    assert env_name("database_url") == "DATABASE_URL"
    assert env_name("log_level") == "LOG_LEVEL"
    assert env_name("web_port") == "CAPSULES_WEB_PORT"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "capsules.toml").write_text(
        'partitions = 4\nlease_s = 3\nredis_url = "redis://a"\n[[sinks]]\ntype="log"\nname="l"\n'
    )
    settings = load_settings({"CAPSULES_PARTITIONS": "8"}, cwd=tmp_path)
    assert (settings.partitions, settings.lease_s, settings.redis_url) == (8, 3.0, "redis://a")
    assert settings.sinks == (LogSinkSettings(name="l"),)


def test_a_named_file_is_read_instead_of_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "capsules.toml").write_text("partitions = 4\n")
    (tmp_path / "other.toml").write_text("lease_s = 3\n")
    settings = load_settings({"CAPSULES_CONFIG": "other.toml"}, cwd=tmp_path)
    assert (settings.partitions, settings.lease_s) == (16, 3.0)


def test_a_named_file_that_is_missing_is_a_mistake(tmp_path: Path) -> None:
    (line,) = mistakes({"CAPSULES_CONFIG": "nope.toml"}, tmp_path)
    assert line.startswith("CAPSULES_CONFIG='nope.toml': expected a file")


def test_a_file_that_is_no_toml_is_a_mistake_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "capsules.toml").write_text("partitions = 4\nlease_s = = 3\n")
    (line,) = mistakes({}, tmp_path)
    assert line.startswith("capsules.toml: expected TOML")
    assert "line 2" in line


def test_all_mistakes_are_told_at_once_one_per_line(tmp_path: Path) -> None:
    (tmp_path / "capsules.toml").write_text("lease_s = 61\nleese = 1\n")
    environ = {
        "REDIS_URL": "http://h",
        "DATABASE_URL": "postgresql:///x",
        "LOG_LEVEL": "loud",
        "CAPSULES_PARTITIONS": "257",
        "CAPSULES_PARTITION": "1",
        **sinks({**WEBHOOK, "secret_env": "NOT_SET"}, {"type": "webhok", "name": "b"}),
    }
    lines = mistakes(environ, tmp_path)
    starts = sorted(line.split(":")[0].split("=")[0] for line in lines)
    assert starts == sorted(
        [
            *("CAPSULES_PARTITION", "CAPSULES_PARTITIONS", "CAPSULES_SINKS[0].secret_env"),
            *("CAPSULES_SINKS[1]", "DATABASE_URL", "LOG_LEVEL", "REDIS_URL"),
            *("leese in the TOML file", "lease_s"),
        ]
    )
    assert all("expected" in line or "no such setting" in line for line in lines)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CAPSULES_PARTITIONS", "0"),
        ("CAPSULES_PARTITIONS", "many"),
        ("CAPSULES_LEASE_S", "0.5"),
        ("CAPSULES_LEASE_S", "nan"),
        ("CAPSULES_APP_ID", "a b"),
        ("CAPSULES_APP_ID", "a{b}"),
        ("CAPSULES_SOURCE_START_ID", "now"),
        ("CAPSULES_SOURCE_STREAM", "wrenn events"),
        ("CAPSULES_WEB_PORT", "65536"),
        ("CAPSULES_LOG_FORMAT", "xml"),
        ("REDIS_URL", ""),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://h:0"),
        ("REDIS_URL", "redis://h:65536"),
        ("REDIS_URL", "redis://h/name"),
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "postgres://u@/d"),
        ("DATABASE_URL", "postgres://h:x/d"),
        ("DATABASE_URL", "postgres://a:1,b:x/d"),
    ],
)
def test_what_cannot_work_is_a_mistake_that_names_variable_and_value(
    variable: str, value: str, tmp_path: Path
) -> None:
    (line,) = mistakes({variable: value}, tmp_path)
    assert line.startswith(f"{variable}={value!r}: expected")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "rediss://user:pw@h:6380/15"),
        ("REDIS_URL", "redis://[::1]:6379"),
        ("DATABASE_URL", "postgres://u:p@a:1,b:2/d?target_session_attrs=read-write"),
        ("DATABASE_URL", "postgresql:///d?host=/run/postgresql"),
        ("LOG_LEVEL", "WARN"),
        ("CAPSULES_SOURCE_START_ID", "1700000000000-3"),
        ("CAPSULES_SOURCE_START_ID", "0"),
    ],
)
def test_what_can_work_is_accepted(variable: str, value: str, tmp_path: Path) -> None:
    load_settings({variable: value}, cwd=tmp_path)


def test_a_read_may_not_block_longer_than_the_sockets_timeout(tmp_path: Path) -> None:
    (line,) = mistakes({"CAPSULES_REDIS_TIMEOUT_S": "2"}, tmp_path)
    assert line.startswith("CAPSULES_READ_BLOCK_MS='2000': expected less than redis_timeout_s")


def test_true_is_not_a_number(tmp_path: Path) -> None:
    (tmp_path / "capsules.toml").write_text("partitions = true\n")
    (line,) = mistakes({}, tmp_path)
    assert line.startswith("partitions='True': expected")


def test_an_unknown_name_is_told_with_the_nearest_known_one(tmp_path: Path) -> None:
    (tmp_path / "capsules.toml").write_text("partition = 4\n")
    lines = mistakes({"CAPSULES_LEASES": "1", "CAPSULES_ZZZ": "1"}, tmp_path)
    assert lines == (
        "CAPSULES_LEASES: no such setting; did you mean CAPSULES_LEASE_S?",
        "CAPSULES_ZZZ: no such setting",
        "partition in the TOML file: no such setting; did you mean partitions?",
    )


def test_an_unknown_name_in_a_sink_is_told_without_its_value(tmp_path: Path) -> None:
    (line,) = mistakes(sinks({**WEBHOOK, "secret": KEY, "secrt": "hush"}), tmp_path)
    assert line == "CAPSULES_SINKS[0].secrt: no such setting; did you mean secret?"


@pytest.mark.parametrize("given", [{}, {"secret": KEY, "secret_env": "K"}])
def test_a_webhook_has_exactly_one_secret(given: dict[str, str], tmp_path: Path) -> None:
    (line,) = mistakes({"K": KEY, **sinks({**WEBHOOK, **given})}, tmp_path)
    assert line == "CAPSULES_SINKS[0]: expected exactly one of secret, secret_env and secret_file"


def test_a_secret_comes_from_where_the_sink_says(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    environ = sinks(
        {**WEBHOOK, "name": "a", "secret": KEY},
        {**WEBHOOK, "name": "b", "secret_env": "CAPSULES_ANY_NAME"},
        {**WEBHOOK, "name": "c", "secret_file": "key"},
    )
    settings = load_settings({"CAPSULES_ANY_NAME": KEY, **environ}, cwd=tmp_path)
    for sink in settings.sinks:
        assert isinstance(sink, WebhookSinkSettings)
        assert sink.secret is not None
        assert sink.secret.get_secret_value() == KEY
        assert sink.secret_env is None
        assert sink.secret_file is None


def test_sinks_have_different_names(tmp_path: Path) -> None:
    entry = {"type": "log", "name": "a"}
    (line,) = mistakes(sinks(entry, entry), tmp_path)
    assert line == "CAPSULES_SINKS: expected different names, but twice: a"


SECRETS = ("pass/word", "pass word", "s3cret", "whsec_hush", KEY)


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URL": "redis://u:pass/word@h:1"},
        {"REDIS_URL": "redis://u:pass word@h:1"},
        {"REDIS_URL": "u:s3cret@h"},
        {"REDIS_URL": "redis://h:x?password=s3cret"},
        {"DATABASE_URL": "postgres://u:s3cret@h:99999/d"},
        {"DATABASE_URL": "postgres://u:" + "x" * 80 + "s3cret@/d"},
        sinks({**WEBHOOK, "url": "ftp://u:s3cret@h"}),
        sinks({**WEBHOOK, "secret": "whsec_hush"}),
        sinks({**WEBHOOK, "secret_env": "whsec_hush"}),
        sinks({**WEBHOOK, "secret_file": KEY}),
        sinks({"type": "log", "name": "a", "secret": KEY}),
        {"CAPSULES_SINKS": f'[{{"secret": "{KEY}"'},
        {"CAPSULES_SINKS": f'"{KEY}"'},
        {"CAPSULES_SINKS": f'["{KEY}"]'},
    ],
)
def test_no_mistake_shows_a_secret(environ: dict[str, str], tmp_path: Path) -> None:
    for line in mistakes(environ, tmp_path):
        assert not any(secret in line for secret in SECRETS)


def test_neither_repr_nor_str_of_the_settings_shows_a_secret(tmp_path: Path) -> None:
    urls = {"REDIS_URL": "redis://:s3cret@h", "DATABASE_URL": "postgres://u:s3cret@h/d"}
    environ = {**urls, **sinks({**WEBHOOK, "url": "https://u:s3cret@h/", "secret": KEY})}
    settings = load_settings(environ, cwd=tmp_path)
    assert settings.redis_url == "redis://:s3cret@h"
    for text in (repr(settings), str(settings), repr(settings.redis_url)):
        assert "s3cret" not in text
        assert KEY not in text
        assert "***" in text


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load_settings(sinks({"type": "log", "name": "a"}), cwd=tmp_path)
    with pytest.raises(pydantic.ValidationError):
        settings.partitions = 3
    with pytest.raises(pydantic.ValidationError):
        settings.sinks[0].name = "b"


def test_settings_made_directly_do_not_read_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARTITIONS", "3")
    monkeypatch.setenv("REDIS_URL", "redis://h")
    assert Settings() == Settings(partitions=16, redis_url="embedded")


def test_the_environment_is_read_when_asked_and_not_at_import(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; os.environ['CAPSULES_PARTITIONS'] = 'broken';"
        "import config.settings as s;"
        "os.environ['CAPSULES_PARTITIONS'] = '7';"
        f"print(s.load_settings(cwd=pathlib.Path({str(tmp_path)!r})).partitions)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    assert run.stdout.strip() == "7"
