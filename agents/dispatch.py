"""Dispatch: each report to its verb's lane, and none past an earlier one of its capsule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import faust

from agents.dead_letters import DeadLetter
from agents.lane import Lane
from agents.order import KeyedOrder
from agents.reconciler import Reconciler
from agents.report import Report
from streams.events import Bad, CapsuleEvent, EntryId, Skip, read_event
from streams.topics import PAYLOAD_FIELD, SOURCE_ID
from streams.transport import Entry

__all__ = ["FAILURE", "Dispatch"]

#: The lane of reports that something failed, whatever the verb.
FAILURE = "failure"


class Dispatch:
    """The agent ``dispatch``.

    Arguments:
        lanes: by the name of the verb, and one under :data:`FAILURE`.
    """

    name = "dispatch"

    def __init__(self, reconciler: Reconciler, lanes: Mapping[str, Lane]) -> None:
        self._reconciler = reconciler
        self._payload_max_bytes = reconciler.settings.payload_max_bytes
        self._lanes = lanes
        self._dead_letters = reconciler.dead_letters(self.name)
        self.order: KeyedOrder[Report] = KeyedOrder(lambda report: report.event.capsule_id)
        for lane in lanes.values():
            reconciler.wiring.connect(self.name, f"lane.{lane.name}")
        reconciler.app.agent(reconciler.topics.capsules, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Dispatch batch after batch."""
        async for entries in stream:
            reports = await self._read(entries)
            await self._hand_out(self.order.admit(reports))

    async def _read(self, entries: list[Entry]) -> list[Report]:
        """Read entries that `Route` has let pass; a newer worker may have other rules."""
        reports: list[Report] = []
        skipped: list[Entry] = []
        dead: list[tuple[Entry, DeadLetter]] = []
        for entry in entries:
            source_id = EntryId.parse(entry.header(SOURCE_ID) or b"0-0")
            event = read_event(source_id, entry.value, payload_max_bytes=self._payload_max_bytes)
            if isinstance(event, CapsuleEvent):
                reports.append(Report(event, entry))
            elif isinstance(event, Skip):
                skipped.append(entry)
            else:
                dead.append((entry, dead_letter(source_id, event, entry)))
        if skipped:
            self._reconciler.settle(skipped)
            self._reconciler.count(self.name, "skip", len(skipped))
        if dead:
            with self._reconciler.working([entry for entry, _ in dead]):
                await self._dead_letters.keep([letter for _, letter in dead])
                self._reconciler.settle(entry for entry, _ in dead)
            self._reconciler.count(self.name, "dead", len(dead))
        return reports

    async def _hand_out(self, reports: Iterable[Report]) -> None:
        by_lane: dict[str, list[Report]] = {}
        for report in reports:
            name = report.event.verb.value if report.event.succeeded else FAILURE
            by_lane.setdefault(name, []).append(report)
        for name, batch in by_lane.items():
            await self._lanes[name].put(batch)

    async def release(self, reports: Iterable[Report]) -> None:
        """Note that `reports` are done with, and hand out what waited behind them."""
        await self._hand_out(self.order.release(reports))


def dead_letter(source_id: EntryId, bad: Bad, entry: Entry) -> DeadLetter:
    """Return the dead letter for an entry of a topic of ours, which has the payload as value."""
    fields = {} if entry.value is None else {PAYLOAD_FIELD: entry.value}
    return DeadLetter(str(source_id), bad, fields)
