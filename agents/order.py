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
        #: By key, while anything of it is under way: those that wait behind it.
        self._waiting: dict[Hashable, list[T]] = {}
        self._under_way: dict[Hashable, int] = {}
        self._held_back = 0

    def admit(self, items: Iterable[T]) -> list[T]:
        """Take `items` in and return those that may go now, run by run; they are under way then."""
        begun = []
        waiting, key_of = self._waiting, self._key
        for item in items:
            key = key_of(item)
            behind = waiting.get(key)
            if behind is None:
                waiting[key] = [item]
                begun.append(key)
            else:
                behind.append(item)
                self._held_back += 1
        self._held_back += len(begun)
        ready: list[T] = []
        for key in begun:
            ready += self._begin(key)
        return ready

    def release(self, items: Iterable[T]) -> list[T]:
        """Note that `items`, which were under way, are done; return those that may go now.

        Raises:
            KeyError: an item was not under way.
        """
        ready: list[T] = []
        waiting, under_way, key_of = self._waiting, self._under_way, self._key
        for item in items:
            key = key_of(item)
            left = under_way[key] - 1
            if left:
                under_way[key] = left
            elif waiting[key]:
                ready += self._begin(key)
            else:
                del waiting[key], under_way[key]
        return ready

    def _begin(self, key: Hashable) -> list[T]:
        """Let the next run of `key` go; some of it is there."""
        behind = self._waiting[key]
        size = 1
        if len(behind) > 1 and self._run_max > 1 and self._joins(behind[0]):
            most = min(len(behind), self._run_max)
            while size < most and self._joins(behind[size]):
                size += 1
        run = behind[:size]
        del behind[:size]
        self._under_way[key] = size
        self._held_back -= size
        return run

    @property
    def busy(self) -> int:
        """Keys with an item under way."""
        return len(self._under_way)

    @property
    def held_back(self) -> int:
        """Items that wait for an earlier one of their key."""
        return self._held_back
