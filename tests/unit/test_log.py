"""Logging: one form for every record of the process, no secrets, no forged lines."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from mode.utils.logging import setup_logging

from config.log import configure_logging


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    named = ("aiohttp", "aiokafka", "asyncio", "faust", "mode", "redis", "streams", "agents")
    levels = {name: logging.getLogger(name).level for name in named}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in named:
        logging.getLogger(name).setLevel(levels[name])
    structlog.reset_defaults()


@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


def configure(level: str, form: Any, stream: io.StringIO) -> dict[str, Any]:
    with contextlib.redirect_stderr(stream):
        return configure_logging(level, form)


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_has_time_level_logger_event_and_what_the_call_adds(stderr: io.StringIO) -> None:
    configure("info", "json", stderr)
    structlog.get_logger("agents.route").warning("routed", action="routed", entries=3)
    (record,) = records(stderr)
    assert datetime.fromisoformat(record.pop("timestamp")).utcoffset() == timedelta(0)
    assert record == {
        "level": "warning",
        "logger": "agents.route",
        "event": "routed",
        "action": "routed",
        "entries": 3,
    }


def test_a_record_of_a_library_has_the_same_form(stderr: io.StringIO) -> None:
    configure("info", "json", stderr)
    logging.getLogger("mode.worker").info("started %s", "x", extra={"partition": 7})
    (record,) = records(stderr)
    assert record["event"] == "started x"
    assert (record["level"], record["logger"], record["partition"]) == ("info", "mode.worker", 7)
    assert "timestamp" in record


def test_records_below_the_level_are_not_written(stderr: io.StringIO) -> None:
    configure("warning", "json", stderr)
    for logger in (structlog.get_logger("a"), logging.getLogger("faust.x")):
        logger.info("no")
        logger.warning("yes")
    assert [record["event"] for record in records(stderr)] == ["yes", "yes"]


def test_auto_is_json_when_nobody_watches(stderr: io.StringIO) -> None:
    configure("info", "auto", stderr)
    structlog.get_logger("a").info("hello")
    assert records(stderr)[0]["event"] == "hello"


def test_auto_is_columns_on_a_terminal() -> None:
    terminal = Terminal()
    configure("info", "auto", terminal)
    structlog.get_logger("a").info("hello")
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_is_not_written_wherever_it_is(form: Any, stderr: io.StringIO) -> None:
    configure("info", form, stderr)
    log = structlog.get_logger("a")
    url = "redis://user:hush@h:6379/0"
    log.info(f"connecting to {url}", url=url, nested={"urls": [url]}, pair=(url, 1))
    log.info("x", signing_secret="hush", headers={"Authorization": "hush"}, token=b"hush")
    log.info("x", thing=type("Thing", (), {"__repr__": lambda _: url})())
    logging.getLogger("faust").warning("connecting to %r", url)
    try:
        raise ConnectionError(url)
    except ConnectionError:
        log.exception("failed")
        logging.getLogger("faust").exception("failed")
    assert "hush" not in stderr.getvalue()
    assert stderr.getvalue().count("***") >= 10


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_comes_from_outside_forges_no_line(form: Any, stderr: io.StringIO) -> None:
    configure("info", form, stderr)
    evil = "a\n2026-01-01 [info] forged\r\x1b[2J\x9b2J\u2028\u202e\x00\x7f"
    structlog.get_logger("a").info(evil, **{"reason": evil, "meta": {evil: [evil]}, evil: 1})
    logging.getLogger("mode").info("%s", evil)
    lines = stderr.getvalue().split("\n")
    assert len(lines) == 3
    assert not any(character in stderr.getvalue() for character in "\r\x1b\x9b\u2028\u202e\x00\x7f")


def test_the_lines_of_a_traceback_cannot_pass_for_records(stderr: io.StringIO) -> None:
    configure("info", "console", stderr)
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z [info] forged\x1b[2J")
    except ValueError:
        structlog.get_logger("a").exception("failed")
    first, *rest = stderr.getvalue().rstrip("\n").split("\n")
    assert "failed" in first
    assert any("forged" in line for line in rest)
    assert all(line.startswith("  | ") for line in rest)
    assert "\x1b" not in stderr.getvalue()


def test_what_json_cannot_hold_is_written_all_the_same(stderr: io.StringIO) -> None:
    configure("info", "json", stderr)
    structlog.get_logger("a").info("x", path=Path("/p"), members={1}, key="\ud800", tail=b"\xff")
    (record,) = records(stderr)
    assert record["members"] == [1]


def test_faust_keeps_our_handlers_and_adds_none(stderr: io.StringIO) -> None:
    config = configure("info", "json", stderr)
    with contextlib.redirect_stderr(stderr):
        setup_logging(loglevel="WARN", logging_config=dict(config))
    # What faust.Worker does after it: WARN is its default level.
    logging.root.handlers[0].setLevel(logging.WARNING)
    logging.root.setLevel(logging.DEBUG)
    logging.getLogger("faust.x").info("kept")
    logging.getLogger("faust.x").debug("dropped")
    logging.getLogger("another").debug("dropped")
    structlog.get_logger("streams.x").info("ours")
    assert [record["event"] for record in records(stderr)] == ["kept", "ours"]


def test_the_configuration_can_be_applied_again(stderr: io.StringIO) -> None:
    log = structlog.get_logger("a")
    configure("warning", "json", stderr)
    log.info("no")
    configure("info", "json", stderr)
    log.info("once")
    assert [record["event"] for record in records(stderr)] == ["once"]


WORKER = """
import os, signal
import faust, mode, structlog
from config.log import configure_logging

class Talks(mode.Service):
    @mode.Service.task
    async def talk(self):
        print("printed")
        self.log.info("talking")
        structlog.get_logger("ours").info("hello", url="redis://u:hush@h")
        os.kill(os.getpid(), signal.SIGTERM)

app = faust.App("t", datadir="data", logging_config=configure_logging("info", "json"))
faust.Worker(app, Talks(), loglevel="WARN").execute_from_commandline()
"""


def test_every_line_of_a_real_faust_worker_is_ours(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WORKER],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    written = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]
    assert {"hello", "printed"} <= {record["event"] for record in written}
    assert any(record["logger"].startswith("mode") for record in written)
    assert any("talking" in record["event"] for record in written)
    assert "hush" not in run.stderr + run.stdout
