"""The effects of batches in Postgres: what several verbs have ready goes in one round trip.

While two are on their way, what the agents hand in waits; the next takes all of it. So there is one
statement for as many events as have gathered, and no waiting for them to gather.

A statement has room for one report of a capsule. Where a batch has more of them, the statement is
run once for each wave of it, in one transaction: the first has the first report of each capsule,
the second the second of those that have one, and so on. Each sees what those before it have done.
A capsule is in one batch of one agent at a time.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from agents.parameters import parameters_of, waves_of
from agents.report import Report
from agents.stage import Stage
from streams.topology import SharedStatement

__all__ = ["Applied", "Effects"]

_AUDIT_LOGS: Final = "audit_logs"
#: Turns of the loop in which other agents may come with what was handed to them at the same moment.
_TURNS: Final = 3
#: Statements under way: one runs in Postgres while the worker goes on with what another has done.
_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class Applied:
    """What one round trip has done."""

    #: Marks that were moved, and rows that were changed.
    fresh: int
    changed: int
    #: Capsules whose entry was left alone, since no team is known for its audit row.
    homeless: frozenset[UUID]


class Effects:
    """What the verb agents share: the statement ``agents/sql/effects.sql``.

    Arguments:
        batch_max: reports in one transaction, at most, unless one batch has more.
    """

    def __init__(self, statement: SharedStatement, *, batch_max: int) -> None:
        self._statement = statement
        #: Of all that have effects, by name: a batch of one may have reports of another.
        self.stages: dict[str, Stage] = {}
        self._batch_max = batch_max
        self._waiting: list[tuple[Sequence[Report], Future[Applied]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        #: Whether one of them has not taken yet what it is to run.
        self._gathers = False

    def connect(self, stage: Stage, *, audits: bool) -> None:
        """Note that `stage` is one of those that have effects; few of them write audit rows."""
        self.stages[stage.name] = stage
        self._statement.connect(stage.name, besides=() if audits else (_AUDIT_LOGS,))

    async def alone(self, reports: Sequence[Report]) -> Applied:
        """Have the effects of `reports`, and of nothing else: all of them or none.

        Raises:
            DatabaseUnavailableError: it may or may not have taken effect; run it again.
            DatabaseRejectedError: it never will.
        """
        waves = [parameters_of(wave) for wave in waves_of(reports)]
        fresh = changed = 0
        homeless: set[UUID] = set()
        for answer in await self._statement.run(waves):
            fresh += sum(answer[0].values())
            changed += sum(answer[1].values())
            homeless.update(map(UUID, answer[3]))
        return Applied(fresh, changed, frozenset(homeless))

    async def together(self, reports: Sequence[Report]) -> Applied:
        """Have the effects of `reports`, in one transaction with what others hand in meanwhile.

        Raises:
            DatabaseUnavailableError: as above, perhaps for what others have handed in.
            DatabaseRejectedError: likewise.
        """
        answer: Future[Applied] = asyncio.get_running_loop().create_future()
        self._waiting.append((reports, answer))
        self._begin()
        return await answer

    def _begin(self) -> None:
        """Have a statement run for what waits, unless one is about to or enough are under way."""
        if self._waiting and not self._gathers and len(self._under_way) < _AT_ONCE:
            self._gathers = True
            task = asyncio.create_task(self._run(), name="effects")
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            self._begin()

    async def _run(self) -> None:
        try:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        finally:
            self._gathers = False
        reports, answers = self._take()
        self._begin()
        try:
            applied = await self.alone(reports)
        except asyncio.CancelledError:
            for answer in answers:
                answer.cancel()
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait are told
            for answer in answers:
                if not answer.done():
                    answer.set_exception(exc)
        else:
            for answer in answers:
                if not answer.done():
                    answer.set_result(applied)

    def _take(self) -> tuple[list[Report], list[Future[Applied]]]:
        """Take what waits, first come, first served, as far as it fits into one statement."""
        reports: list[Report] = []
        answers: list[Future[Applied]] = []
        for batch, answer in self._waiting:
            if answers and len(reports) + len(batch) > self._batch_max:
                break
            reports += batch
            answers.append(answer)
        del self._waiting[: len(answers)]
        return reports, answers
