"""Successful events on their way to the hook topics; those of several verbs go as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from agents.reconciler import Reconciler
from agents.report import Report
from agents.together import Together
from streams.events import sandbox_event
from streams.topics import SOURCE_ID
from streams.topology import Outlet
from streams.transport import Record

__all__ = ["Publish"]

#: Events sent in one go.
_SENT_MAX: Final = 1_000


class Publish:
    """What the verb agents share that have hooks."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._topics = reconciler.topics.hooks.values()
        #: Of the sinks' backlogs, which are told what was sent.
        self.caps = list(reconciler.caps.values())
        #: By stage; whose it is makes no difference but to whom is told that Redis is away.
        self._outlets: dict[str, Outlet] = {}
        self._together: Together[tuple[Report, Record], None] = Together(
            self._send, name="publish", size_max=_SENT_MAX
        )

    def connect(self, stage: str) -> None:
        """Note that `stage` is one of those whose events go to the hooks, if there are any."""
        if self._topics:
            self._outlets[stage] = self._reconciler.outlet(stage, *self._topics)

    async def send(self, reports: Sequence[Report]) -> None:
        """Append `reports`, as the sinks are given them, to all hook topics.

        Under the key of their capsules, so order per capsule holds. Returns when they are in Redis.
        """
        if not (self._topics and reports):
            return
        now = datetime.now(UTC)
        records = [_record_of(report, now) for report in reports]
        for stage in {report.stage for report in reports}:
            self._reconciler.wiring.tracing.stage(stage).carry(reports, records)
        await self._together.hand_in(list(zip(reports, records, strict=True)))

    async def _send(self, published: list[tuple[Report, Record]]) -> None:
        stages = Counter(report.stage for report, _ in published)
        outlet = self._outlets[published[0][0].stage]
        await outlet.send([record for _, record in published], of=stages)
        for cap in self.caps:
            cap.note_sent(len(published))


def _record_of(report: Report, now: datetime) -> Record:
    return Record(
        sandbox_event(report.event, now=now).to_bytes(),
        report.event.capsule_key,
        {SOURCE_ID: str(report.event.source_id).encode()},
    )
