"""Together: what several agents hand in at one moment is worked on in one go.

What is handed in while as much is under way as may be waits, and the next go takes all of it. So
each go is as large as what has gathered, and nothing waits for more to come.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

__all__ = ["Together"]

T = TypeVar("T")
R = TypeVar("R")

#: Turns of the loop in which other agents may come with what was handed to them at the same moment.
_TURNS: Final = 3
#: Goes under way: one waits for its server while the worker goes on with what another has done.
_AT_ONCE: Final = 2


class Together(Generic[T, R]):
    """Gives `work` what was handed in, in the order in which it was.

    Arguments:
        work: does it all or nothing; its answer, or what it raises, is for each who handed in.
        name: of its tasks.
        size_max: items in one go, at most, unless one hands in more at once.
    """

    def __init__(
        self, work: Callable[[list[T]], Awaitable[R]], *, name: str, size_max: int
    ) -> None:
        self._work = work
        self._name = name
        self._size_max = size_max
        self._waiting: list[tuple[Sequence[T], Future[R]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        #: Whether one of them has not taken yet what it is to work on.
        self._gathers = False

    async def hand_in(self, items: Sequence[T]) -> R:
        """Have `items` worked on, with what others hand in meanwhile."""
        answer: Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, answer))
        self._begin()
        return await answer

    def _begin(self) -> None:
        """Begin on what waits, unless one is about to or enough is under way."""
        if self._waiting and not self._gathers and len(self._under_way) < _AT_ONCE:
            self._gathers = True
            task = asyncio.create_task(self._run(), name=self._name)
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
        items, answers = self._take()
        self._begin()
        try:
            result = await self._work(items)
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
                    answer.set_result(result)

    def _take(self) -> tuple[list[T], list[Future[R]]]:
        """Take what waits, first come, first served, as far as it fits."""
        items: list[T] = []
        answers: list[Future[R]] = []
        for batch, answer in self._waiting:
            if answers and len(items) + len(batch) > self._size_max:
                break
            items += batch
            answers.append(answer)
        del self._waiting[: len(answers)]
        return items, answers
