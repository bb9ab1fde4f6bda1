"""Order per capsule: what is under way of a capsule at one time is a run of its reports.

A report whose capsule is busy waits behind the earlier ones, and only behind those: other
capsules pass. When all that was under way is done, as many of those behind it are let go as may
go together: whoever is given a run keeps it in order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["KeyedOrder"]

T = TypeVar("T")


class KeyedOrder(Generic[T]):
    """Lets items with the same key go one run at a time, in the order they came.

    Arguments:
        key: what must not overtake itself.
        joins: whether an item may go in a run with others; one that may not goes alone.
        run_max: items in a run, at most.
    """

    def __init__(
        self,
        key: Callable[[T], Hashable],
        *,
        joins: Callable[[T], bool] = lambda _: False,
        run_max: int = 1,
    ) -> None:
        self._key = key
        self._joins = joins
        self._run_max = run_max
        #: By key: how many items are under way, and those that wait behind them, if any.
        self._under_way: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, list[T]] = {}

    def admit(self, items: Iterable[T]) -> list[T]:
        """Take `items` in and return those that may go now; they are then under way.

        An item whose key is not busy goes at once, and alone.
        """
        ready = []
        under_way, key_of = self._under_way, self._key
        for item in items:
            key = key_of(item)
            if key not in under_way:
                under_way[key] = 1
                ready.append(item)
            else:
                self._waiting.setdefault(key, []).append(item)
        return ready

    def release(self, items: Iterable[T]) -> list[T]:
        """Note that `items`, which were under way, are done; return those that may go now.

        The items of a run come one after the other.

        Raises:
            KeyError: an item was not under way.
        """
        ready: list[T] = []
        under_way, key_of = self._under_way, self._key
        for item in items:
            key = key_of(item)
            left = under_way[key] - 1
            if left:
                under_way[key] = left
            elif key in self._waiting:
                run = self._next(key)
                under_way[key] = len(run)
                ready += run
            else:
                del under_way[key]
        return ready

    def _next(self, key: Hashable) -> list[T]:
        """Take the next run out of those that wait."""
        behind = self._waiting[key]
        size = 1
        if self._joins(behind[0]):
            most = min(len(behind), self._run_max)
            while size < most and self._joins(behind[size]):
                size += 1
        run = behind[:size]
        del behind[:size]
        if not behind:
            del self._waiting[key]
        return run

    @property
    def busy(self) -> int:
        """Keys with an item under way."""
        return len(self._under_way)

    @property
    def held_back(self) -> int:
        """Items that wait for an earlier one of their key."""
        return sum(map(len, self._waiting.values()))
