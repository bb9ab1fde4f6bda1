"""Waiting for what must come, and failing when it does not; never for time to pass."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

__all__ = ["DEADLINE_S", "Received", "eventually"]

T = TypeVar("T")

#: The longest that a test waits for something that must come.
DEADLINE_S = 8.0


async def eventually(
    check: Callable[[], object], *, what: str, timeout_s: float = DEADLINE_S
) -> None:
    """Wait until `check`, or what it awaits, is true; fails, saying `what` did not come."""
    deadline = monotonic() + timeout_s
    while True:
        answer = check()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        if monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(0.005)


class Received(Generic[T]):
    """What an agent was given, in order."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self._changed = asyncio.Event()

    def add(self, item: T) -> None:
        """Note one more item."""
        self.items.append(item)
        self._changed.set()

    async def until(self, count: int, *, timeout_s: float = DEADLINE_S) -> list[T]:
        """Wait for `count` items, and return all there are."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.items) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{len(self.items)} of {count} came: {self.items[-5:]}") from None
        return self.items
