"""Dispatch: each report to its verb's lane, and none past an earlier one of its capsule.

Reports of one capsule that wait behind each other go together, in order: a run of them goes into
the lane of its first. Failures go alone, since one may end as a dead letter that the later ones
must not overtake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

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
#: Reports of one capsule that go together, at most.
_RUN_MAX: Final = 8


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
        self.order: KeyedOrder[Report] = KeyedOrder(
            attrgetter("event.capsule_key"),
            joins=attrgetter("event.succeeded"),
            run_max=_RUN_MAX,
        )
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
                stage = event.verb.value if event.succeeded else FAILURE
                reports.append(Report(event, entry, stage))
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
        """Give each run of reports of one capsule to the lane of its first."""
        by_lane: dict[str, list[Report]] = {}
        capsule, lane = b"", ""
        for report in reports:
            if report.event.capsule_key != capsule:
                capsule, lane = report.event.capsule_key, report.stage
            by_lane.setdefault(lane, []).append(report)
            self._flows[report.stage].entries += 1
        for lane, batch in by_lane.items():
            self._stage.trace.hand_on(batch)
            await self._lanes[lane].put(batch)

    async def release(self, reports: Iterable[Report]) -> None:
        """Note that `reports` are done with, and hand out what waited behind them."""
        await self._hand_out(self.order.release(reports))
