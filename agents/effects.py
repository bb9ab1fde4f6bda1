"""The effects of batches in Postgres: what several verbs have ready goes in one round trip.

A statement has room for one report of a capsule. Where a batch has more of them, the statement is
run once for each wave of it, in one transaction: the first has the first report of each capsule,
the second the second of those that have one, and so on. Each sees what those before it have done.
A capsule is in one batch of one agent at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from agents.parameters import parameters_of, waves_of
from agents.report import Report
from agents.stage import Stage
from agents.together import Together
from streams.topology import SharedStatement

__all__ = ["Applied", "Effects"]

_AUDIT_LOGS: Final = "audit_logs"


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
        self._together: Together[Report, Applied] = Together(
            self.alone, name="effects", size_max=batch_max
        )

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
        return await self._together.hand_in(reports)
