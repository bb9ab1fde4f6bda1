"""Dispatch: each report to its verb's lane, and none past an earlier one of its capsule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import faust

from agents.lane import Lane
from agents.order import KeyedOrder
from agents.readings import Readings
from agents.reconciler import Reconciler
from agents.report import Report
from streams.dead_letters.record import DeadLetter
from streams.events import CapsuleEvent, Skip, SkipRule
from streams.outcomes import Dead
from streams.topics import SOURCE_ID
from streams.transport import Entry

__all__ = ["FAILURE", "Dispatch"]

#: The lane of reports that something failed, whatever the verb.
FAILURE = "failure"


class Dispatch:
    """The agent ``dispatch``.

    Arguments:
        readings: what `Route` has read.
        lanes: by the name of the verb, and one under :data:`FAILURE`.
    """

    name = "dispatch"

    def __init__(
        self, reconciler: Reconciler, readings: Readings, lanes: Mapping[str, Lane]
    ) -> None:
        self._reconciler = reconciler
        self._readings = readings
        self._lanes = lanes
        self._stage = reconciler.stage(self.name)
        self.order: KeyedOrder[Report] = KeyedOrder(lambda report: report.event.capsule_id.int)
        self._flows = {
            name: reconciler.wiring.connect(self.name, f"lane.{lane.name}")
            for name, lane in lanes.items()
        }
        reconciler.app.agent(reconciler.topics.capsules, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Dispatch batch after batch."""
        async for entries in stream:
            self._stage.receive(entries)
            self._stage.trace.receive(entries)
            reports = await self._read(entries)
            await self._hand_out(self.order.admit(reports))

    async def _read(self, entries: list[Entry]) -> list[Report]:
        """Read entries that `Route` has let pass; a newer worker may have other rules."""
        reports: list[Report] = []
        skipped: dict[SkipRule, list[Entry]] = {}
        dead: list[tuple[Entry, DeadLetter]] = []
        for entry in entries:
            event = self._readings.read_again(entry.header(SOURCE_ID) or b"0-0", entry.value)
            if isinstance(event, CapsuleEvent):
                reports.append(Report(event, entry))
            elif isinstance(event, Skip):
                skipped.setdefault(event.rule, []).append(entry)
            else:
                why = Dead.of_bad(event)
                dead.append((entry, DeadLetter.of_report(entry, self.name, why)))
        for rule, of_rule in skipped.items():
            self._stage.skip(of_rule, rule)
        if dead:
            with self._reconciler.working([entry for entry, _ in dead]) as ours:
                await self._stage.dead(death for death in dead if death[0] in ours)
        return reports

    async def _hand_out(self, reports: Iterable[Report]) -> None:
        by_lane: dict[str, list[Report]] = {}
        for report in reports:
            name = report.event.verb if report.event.succeeded else FAILURE
            by_lane.setdefault(name, []).append(report)
        for name, batch in by_lane.items():
            self._flows[name].entries += len(batch)
            self._stage.trace.hand_on(batch)
            await self._lanes[name].put(batch)

    async def release(self, reports: Iterable[Report]) -> None:
        """Note that `reports` are done with, and hand out what waited behind them."""
        await self._hand_out(self.order.release(reports))
