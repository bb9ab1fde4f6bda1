"""The log sink's one line, as a real structlog pipeline renders it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import structlog

from agents.hooks import LogSink, Sink
from streams.events import SandboxEvent
from streams.ids import format_capsule_id, format_team_id

CAPSULE = UUID("018f4a52-7e0c-7a31-9d55-3f6f0a1b2c3d")
TEAM = UUID("018f4a52-7e0c-7a31-9d55-000000000001")


@pytest.fixture
def log_output() -> Iterator[io.StringIO]:
    output = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    yield output
    structlog.configure(**before)


def _event(team_id: UUID | None = TEAM) -> SandboxEvent:
    return SandboxEvent(
        delivery_id="1700000000000-0",
        capsule_id=CAPSULE,
        team_id=team_id,
        type="paused",
        occurred_at=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
        metadata={"zone": "private-value", "host_ip": "10.9.8.7"},
    )


async def _logged(output: io.StringIO, event: SandboxEvent) -> Any:
    sink: Sink = LogSink("audit")
    await sink.open()
    await sink.on_sandbox_event(event)
    await sink.close()
    (line,) = output.getvalue().splitlines()
    return json.loads(line)


async def test_an_event_is_one_line_that_says_what_happened_to_which_capsule(
    log_output: io.StringIO,
) -> None:
    assert await _logged(log_output, _event()) == {
        "event": "sandbox event",
        "level": "info",
        "action": "sandbox_event",
        "sink": "audit",
        "delivery_id": "1700000000000-0",
        "capsule_id": format_capsule_id(CAPSULE),
        "team_id": format_team_id(TEAM),
        "type": "paused",
        "occurred_at": "2024-05-06T07:08:09+00:00",
        "metadata_keys": ["host_ip", "zone"],
    }


async def test_metadata_values_are_never_logged(log_output: io.StringIO) -> None:
    await _logged(log_output, _event())

    assert "private-value" not in log_output.getvalue()
    assert "10.9.8.7" not in log_output.getvalue()


async def test_an_event_without_a_team_is_logged_with_none(log_output: io.StringIO) -> None:
    line = await _logged(log_output, _event(team_id=None))

    assert line["team_id"] is None
