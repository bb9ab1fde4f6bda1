"""A sink that writes each event as one structured log line."""

from __future__ import annotations

import structlog

from streams.events import SandboxEvent
from streams.ids import format_capsule_id, format_team_id


class LogSink:
    """Logs every event; durable as far as the process's log stream is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

    def __repr__(self) -> str:
        return f"LogSink(name={self.name!r})"

    @property
    def target(self) -> str:
        """Where it delivers to, for operators."""
        return "the log"

    async def open(self) -> None:
        """Nothing to do: the log is always open."""

    async def close(self) -> None:
        """Nothing to do: the log is not ours to close."""

    async def check(self) -> None:
        """Nothing to find out: the log is always there."""

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Log one line. Metadata shows its keys only: the values are not ours to print."""
        self._log.info(
            "sandbox event",
            action="sandbox_event",
            sink=self.name,
            delivery_id=event.delivery_id,
            capsule_id=format_capsule_id(event.capsule_id),
            team_id=None if event.team_id is None else format_team_id(event.team_id),
            type=event.type,
            occurred_at=event.occurred_at.isoformat(),
            metadata_keys=sorted(event.metadata),
        )
