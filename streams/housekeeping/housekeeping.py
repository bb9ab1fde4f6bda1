"""What would grow for ever is cut back now and then, by one worker of the fleet at a time.

The one is who reads the producer's stream, which is a single partition. Two may be at it for a
moment, when that partition moves; each statement stands for itself and passes over rows that
another one has locked, so that they do the same work once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import faust
import structlog

from streams.errors import DatabaseError
from streams.transport import TransportError

__all__ = ["Chore", "Housekeeping"]

log = structlog.get_logger(__name__)


class Chore(Protocol):
    """One thing to cut back."""

    @property
    def name(self) -> str:
        """What the log calls it: the things that are counted."""
        ...

    def run(self) -> AsyncGenerator[int, None]:
        """Do all there is to do, in short statements; gives how many things each one removed.

        Raises DatabaseError and TransportError.
        """
        ...


class Housekeeping:
    """Runs the chores one after the other, again and again.

    Arguments:
        interval_s: from the end of one turn to the next.
        is_ours: whether this worker is the one to do it; asked before each statement.
    """

    def __init__(
        self, chores: Sequence[Chore], *, interval_s: float, is_ours: Callable[[], bool]
    ) -> None:
        self._chores = chores
        self._interval_s = interval_s
        self._is_ours = is_ours

    async def keep(self, app: faust.App) -> None:
        """Take turn after turn until `app` stops; a Faust task."""
        while not app.should_stop:
            await app.sleep(self._interval_s)
            await self.take_turn()

    async def take_turn(self) -> None:
        """Run each chore once; one that fails keeps none of the others from its turn."""
        counts = {}
        for chore in self._chores:
            if not self._is_ours():
                return
            count = await self._do(chore)
            if count is not None:
                counts[chore.name] = count
        if counts:
            log.info("housekeeping done", action="housekeeping_done", **counts)

    async def _do(self, chore: Chore) -> int | None:
        """Return how many things were removed; None if it failed."""
        total = 0
        try:
            async with aclosing(chore.run()) as steps:
                async for count in steps:
                    total += count
                    if not self._is_ours():
                        break
        except (DatabaseError, TransportError) as exc:
            log.warning(
                "housekeeping failed, trying again at the next turn",
                action="housekeeping_failed",
                chore=chore.name,
                error=str(exc),
            )
        except Exception as exc:
            # A fault of the program in here is no reason to end the worker.
            log.error(
                "unexpected error in housekeeping, trying again at the next turn",
                action="housekeeping_stuck",
                chore=chore.name,
                exc_info=exc,
            )
        else:
            return total
        return None
