"""Order per capsule: one report of a capsule is under way at a time.

A report whose capsule is busy waits behind the earlier ones, and only behind those: other
capsules pass. When the one under way is done, the next of its capsule is let go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["KeyedOrder"]

T = TypeVar("T")


class KeyedOrder(Generic[T]):
    """Lets items with the same key go one at a time, in the order they came.

    Arguments:
        key: what must not overtake itself.
    """

    def __init__(self, key: Callable[[T], Hashable]) -> None:
        self._key = key
        #: A key stands here while an item of it is under way; behind it, those that wait, if any.
        self._waiting: dict[Hashable, deque[T] | None] = {}
        self._held_back = 0

    def admit(self, items: Iterable[T]) -> list[T]:
        """Take `items` in and return those that may go now; they are then under way."""
        ready = []
        waiting, key_of = self._waiting, self._key
        for item in items:
            key = key_of(item)
            if key not in waiting:
                waiting[key] = None
                ready.append(item)
                continue
            behind = waiting[key]
            if behind is None:
                behind = waiting[key] = deque()
            behind.append(item)
            self._held_back += 1
        return ready

    def release(self, items: Iterable[T]) -> list[T]:
        """Note that `items`, which were under way, are done; return those that may go now.

        Raises:
            KeyError: an item was not under way.
        """
        ready = []
        waiting, key_of = self._waiting, self._key
        for item in items:
            key = key_of(item)
            if behind := waiting[key]:
                ready.append(behind.popleft())
                self._held_back -= 1
            else:
                del waiting[key]
        return ready

    @property
    def busy(self) -> int:
        """Keys with an item under way."""
        return len(self._waiting)

    @property
    def held_back(self) -> int:
        """Items that wait for an earlier one of their key."""
        return self._held_back
