"""Asking a server how it is, no more often than needed and never for longer than is good.

Metrics, health and scaling are asked for from outside, as often as somebody likes, and answered
from the worker's own loop. What they need to know of Redis and Postgres is asked when somebody
wants it, once for all who want it at the same time, and kept for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, Generic, TypeVar

import structlog

from streams.errors import DatabaseError
from streams.transport import TransportError

__all__ = ["Sounding"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: An answer that is older says nothing about now.
_STALE_S: Final = 60.0
#: Nor does an error that is older.
_TROUBLE_STALE_S: Final = 10.0


class Sounding(Generic[T]):
    """One question, and the last answer to it.

    Arguments:
        ask: raises TransportError or DatabaseError where there is no answer.
        every_s: between the beginnings of two asks, at least.
        deadline_s: an ask that takes longer counts as unanswered; it is waited for no longer,
            and not repeated before it has ended.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[T]], *, every_s: float, deadline_s: float
    ) -> None:
        self._ask = ask
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._task: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._value: T | None = None
        self._error = ""
        #: How often it was asked.
        self.asked = 0

    async def take(self, *, max_age_s: float = 0.0) -> None:
        """See to it that the answer is no older than `every_s`, or `max_age_s` where that is more.

        Returns when it is, or when the deadline has passed.
        """
        now = monotonic()
        if self._task is None and now - self._asked_at >= max(self._every_s, max_age_s):
            self._asked_at = now
            self.asked += 1
            self._task = asyncio.create_task(self._run(), name="sounding")
        if self._task is not None:
            left_s = self._asked_at + self._deadline_s - monotonic()
            await asyncio.wait([self._task], timeout=max(left_s, 0))

    async def _run(self) -> None:
        try:
            self._value = await self._ask()
        except (TransportError, DatabaseError) as exc:
            self._error = str(exc) or type(exc).__name__
        except Exception as exc:
            # Whoever looks from outside is still told that there is no answer, and why.
            self._error = f"{type(exc).__name__} in the worker"
            log.error("unexpected error", action="sounding_failed", exc_info=exc)
        else:
            self._error = ""
            self._answered_at = monotonic()
        finally:
            self._task = None

    @property
    def trouble(self) -> str:
        """Why there is no answer; empty where there is one, or nobody has asked lately."""
        silent_s = monotonic() - self._asked_at
        # Timers may ring a little early.
        if self._task is not None and silent_s >= self._deadline_s * 0.95:
            return f"no answer for {silent_s:.0f} s"
        return self._error if silent_s <= _TROUBLE_STALE_S else ""

    @property
    def value(self) -> T | None:
        """The last answer, also while there is trouble; None: there is none, or it is too old."""
        return self._value if self.age_s < _STALE_S else None

    @property
    def age_s(self) -> float:
        """How old the last answer is."""
        return monotonic() - self._answered_at

    async def close(self) -> None:
        """Ask no more, and leave no ask behind."""
        self._asked_at = float("inf")
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])
