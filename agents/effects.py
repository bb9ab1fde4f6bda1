"""The effects of batches in Postgres: what several verbs have ready goes as one statement.

While a statement is on its way, what the agents hand in waits; the next takes all of it. So there
is one statement for as many events as have gathered, and no waiting for them to gather. A capsule
is in one batch of one agent at a time, so it is in a statement once at most.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from agents.parameters import Batch, parameters_of
from agents.reconciler import Reconciler
from agents.report import Report

__all__ = ["Applied", "Effects"]

_AUDIT_LOGS: Final = "audit_logs"
#: Turns of the loop in which those who were just answered may come back with more.
_TURNS: Final = 3


@dataclass(frozen=True, slots=True)
class Applied:
    """What one statement has done."""

    #: Marks that were moved, and rows that were changed, by stage.
    fresh: Mapping[str, int]
    changed: Mapping[str, int]
    #: Capsules whose entry was left alone, since no team is known for its audit row.
    homeless: frozenset[UUID]


class Effects:
    """What the verb agents share: the statement ``agents/sql/effects.sql``."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._statement = reconciler.shared_statement("effects")
        self._batch_max = reconciler.settings.lane_batch_max
        self._waiting: list[tuple[Batch, Future[Applied]]] = []
        self._running: asyncio.Task[None] | None = None

    def connect(self, stage: str, *, audits: bool) -> None:
        """Note that `stage` is one of those that have effects; few of them write audit rows."""
        self._statement.connect(stage, besides=() if audits else (_AUDIT_LOGS,))

    async def alone(self, stage: str, reports: Sequence[Report]) -> Applied:
        """Have the effects of `reports` in a statement of their own.

        Raises:
            DatabaseUnavailableError: it may or may not have taken effect; run it again.
            DatabaseRejectedError: it never will.
        """
        return await self._run([(stage, reports)])

    async def together(self, stage: str, reports: Sequence[Report]) -> Applied:
        """Have the effects of `reports`, in one statement with what others hand in meanwhile.

        Raises:
            DatabaseUnavailableError: as above, perhaps for what others have handed in.
            DatabaseRejectedError: likewise.
        """
        answer: Future[Applied] = asyncio.get_running_loop().create_future()
        self._waiting.append(((stage, reports), answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_all())
        return await answer

    async def _run_all(self) -> None:
        while self._waiting:
            batches, answers = self._take()
            try:
                applied = await self._run(batches)
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
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _take(self) -> tuple[list[Batch], list[Future[Applied]]]:
        """Take what waits, first come, first served, as far as it fits into one statement."""
        batches: list[Batch] = []
        answers: list[Future[Applied]] = []
        room = self._batch_max
        for batch, answer in self._waiting:
            room -= len(batch[1])
            if batches and room < 0:
                break
            batches.append(batch)
            answers.append(answer)
        del self._waiting[: len(batches)]
        return batches, answers

    async def _run(self, batches: Sequence[Batch]) -> Applied:
        row = await self._statement.run(parameters_of(batches))
        return Applied(row[0] or {}, row[1] or {}, frozenset(map(UUID, row[3])))
