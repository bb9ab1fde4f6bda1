"""Successful events on their way to the hook topics; those of several verbs go as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from agents.backlog_cap import BacklogCap
from agents.report import Report
from agents.together import Together
from streams.events import sandbox_event
from streams.topics import SOURCE_ID
from streams.topology import Outlet
from streams.transport import Record

__all__ = ["Publish", "record_of"]

#: Events sent in one go.
_SENT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Published:
    stage: str
    record: Record
    #: Of the agent that hands it in.
    outlet: Outlet


def record_of(report: Report, now: datetime) -> Record:
    """Return `report` as the sinks are given it, under its capsule's key, so in order."""
    return Record(
        sandbox_event(report.event, now=now).to_bytes(),
        report.event.capsule_id.bytes,
        {SOURCE_ID: str(report.event.source_id).encode()},
    )


class Publish:
    """What the verb agents share that have hooks.

    Arguments:
        caps: of the sinks' backlogs, which are told what was sent.
    """

    def __init__(self, caps: Iterable[BacklogCap]) -> None:
        self.caps = list(caps)
        self._together: Together[_Published, None] = Together(
            self._send, name="publish", size_max=_SENT_MAX
        )

    async def send(
        self, outlet: Outlet, reports: Sequence[Report], records: Sequence[Record]
    ) -> None:
        """Append `records`, of `reports`, to all hook topics; returns when they are in Redis."""
        await self._together.hand_in(
            [
                _Published(report.stage, record, outlet)
                for report, record in zip(reports, records, strict=True)
            ]
        )

    async def _send(self, published: list[_Published]) -> None:
        # Whose outlet it is makes no difference but to whom is told that Redis is away.
        outlet = published[0].outlet
        await outlet.send(
            [each.record for each in published], of=Counter(each.stage for each in published)
        )
        for cap in self.caps:
            cap.note_sent(len(published))
