"""Dead letters: entries that cannot be used, kept whole with the reason.

A dead letter is an entry of the topic ``dead-letters``: the producer's payload is its value,
everything else about it a header (:data:`HEADERS`). An entry may come twice, after a crash
between keeping and acknowledging it; its ``source-id`` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from streams.events import Bad
from streams.topics import PAYLOAD_FIELD, SOURCE_ID
from streams.topology import Outlet
from streams.transport import Record

__all__ = ["HEADERS", "DeadLetter", "DeadLetters"]

log = structlog.get_logger(__name__)

#: Headers of each dead letter; a producer's field other than the payload is ``field.<name>``.
HEADERS: Final = (SOURCE_ID, "stage", "field", "value", "reason", "at")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that cannot be used, and why."""

    source_id: str
    bad: Bad
    #: All fields of the entry as the producer wrote them.
    fields: Mapping[bytes, bytes]

    def record(self, stage: str, at: datetime) -> Record:
        """Return the message that keeps it."""
        headers = {
            SOURCE_ID: self.source_id.encode(),
            "stage": stage.encode(),
            "field": self.bad.field.encode("utf-8", "backslashreplace"),
            "value": self.bad.value.encode("utf-8", "backslashreplace"),
            "reason": self.bad.reason.encode("utf-8", "backslashreplace"),
            "at": at.isoformat().encode(),
        }
        for name, value in self.fields.items():
            if name != PAYLOAD_FIELD:
                headers[f"field.{name.decode('utf-8', 'backslashreplace')}"] = value
        return Record(self.fields.get(PAYLOAD_FIELD), headers=headers)


class DeadLetters:
    """Keeps one stage's dead letters."""

    def __init__(self, outlet: Outlet, stage: str) -> None:
        self._outlet = outlet
        self._stage = stage

    async def keep(self, letters: list[DeadLetter]) -> None:
        """Keep `letters`; returns when they are in Redis."""
        now = datetime.now(UTC)
        await self._outlet.send([letter.record(self._stage, now) for letter in letters])
        for letter in letters:
            log.warning(
                "dead letter",
                action="dead_letter",
                stage=self._stage,
                source_id=letter.source_id,
                field=letter.bad.field,
                value=letter.bad.value,
                reason=letter.bad.reason,
            )
