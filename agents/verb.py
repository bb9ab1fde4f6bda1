"""What the verb agents have in common: a batch is one statement, then hooks, then done.

The order of the steps is what the guarantees rest on:

0. while a sink's backlog is full, and is to hold up the pipeline, nothing is begun;
1. the statement moves the watermarks and has its effects, all in one transaction;
2. the hook topics get the successful events (again, if this worker died behind step 1);
3. the entries are settled, and only then may the next reports of their capsules go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, repeat
from typing import Any, Final

import faust
import structlog

from agents.effects import Applied, Effects
from agents.lane import Lane
from agents.publish import Publish
from agents.reconciler import Reconciler
from agents.report import Report, by_stage
from streams.dead_letters.record import DeadLetter
from streams.errors import DatabaseRejectedError
from streams.outcomes import Dead, Reason

__all__ = ["VerbAgent"]

log = structlog.get_logger(__name__)

_NO_TEAM: Final = "an audit row needs a team: neither the event nor a row has one"

Release = Callable[[Sequence[Report]], Awaitable[None]]


class VerbAgent:
    """One verb's agent, on its lane.

    Arguments:
        effects: shared by all verbs' agents.
        name: of the agent and its lane, and of its rule in ``agents/sql/effects.sql``.
        publish: shared likewise; None: the events do not go to the hook sinks.
        audits: whether it writes audit rows.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        effects: Effects,
        name: str,
        *,
        publish: Publish | None,
        audits: bool = False,
    ) -> None:
        self.name = name
        self.lane = Lane(reconciler, name)
        self._reconciler = reconciler
        self._effects = effects
        self._publish = publish
        self._caps = publish.caps if publish is not None else []
        if publish is not None:
            publish.connect(name)
        self._stage = reconciler.stage(name)
        effects.connect(self._stage, audits=audits)
        #: Its own, and those of others: what waits behind a report of a capsule comes with it.
        self._stages = effects.stages
        self._release: Release | None = None
        reconciler.app.agent(self.lane.channel, name=name)(self.run)

    def when_done(self, release: Release) -> None:
        """Have `release` told of each batch that is done."""
        self._release = release

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Work through the lane."""
        await self.lane.work(stream, self._handle)

    async def _handle(self, reports: list[Report]) -> None:
        # Before anything is begun: who waits here holds on to no partition.
        for cap in self._caps:
            if not await cap.wait_for_room(self._stage.meter, lambda: self._reconciler.is_leaving):
                return
        of_stages = by_stage(reports)
        for name, of_stage in of_stages.items():
            self._stages[name].receive(of_stage)
            self._stages[name].trace.receive(of_stage)
        with self._reconciler.working([report.entry for report in reports]) as ours:
            mine = reports
            if len(ours) < len(reports):
                mine = [report for report in reports if report.entry in ours]
            if mine:
                applied = await self._apply(mine)
                if self._publish is not None:
                    await self._publish.send(applied)
                for name, done in by_stage(applied).items():
                    self._stages[name].done(
                        [report.entry for report in done],
                        source_ms=[report.event.source_id.ms for report in done],
                    )
        for name, of_stage in of_stages.items():
            self._stages[name].trace.end(of_stage, "left")
        if self._release is not None:
            await self._release(reports)

    async def _apply(self, reports: list[Report], *, alone: bool = False) -> list[Report]:
        """Have the effects of `reports`; dead-letter, and leave out, what cannot be stored."""
        beside = {report.stage for report in reports} - {self.name}
        # What went wrong may be another stage's: from the second attempt on this one goes alone.
        ways = chain([] if alone else [self._effects.together], repeat(self._effects.alone))
        try:
            applied = await self._stage.insist(
                lambda: next(ways)(reports),
                give_up_on=(DatabaseRejectedError,),
                of=reports,
                beside=[self._stages[name] for name in beside],
            )
        except DatabaseRejectedError as exc:
            if not alone:
                return await self._apply(reports, alone=True)
            if len(reports) == 1:
                await self._bury(reports, Dead(Reason.REFUSED_BY_POSTGRES, str(exc)))
                return []
            # One half after the other: the later one may have later reports of a capsule.
            half = len(reports) // 2
            first = await self._apply(reports[:half], alone=True)
            return first + await self._apply(reports[half:], alone=True)
        return await self._account(reports, applied)

    async def _account(self, reports: list[Report], applied: Applied) -> list[Report]:
        done = reports
        if homeless := applied.homeless:
            done = [report for report in reports if report.event.capsule_id not in homeless]
            without = [report for report in reports if report.event.capsule_id in homeless]
            await self._bury(without, Dead(Reason.NO_TEAM, _NO_TEAM))
        log.debug(
            "batch applied",
            action="batch_applied",
            stage=self.name,
            entries=len(done),
            fresh=applied.fresh,
            changed=applied.changed,
        )
        return done

    async def _bury(self, reports: list[Report], why: Dead) -> None:
        for name, of_stage in by_stage(reports).items():
            await self._stages[name].dead(
                (report.entry, DeadLetter.of_report(report.entry, name, why)) for report in of_stage
            )
