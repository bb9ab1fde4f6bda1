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
        #: A key stands here while an item of it is under way; behind it, those that wait.
        self._waiting: dict[Hashable, deque[T]] = {}
        self._held_back = 0

    def admit(self, items: Iterable[T]) -> list[T]:
        """Take `items` in and return those that may go now; they are then under way."""
        ready = []
        for item in items:
            key = self._key(item)
            behind = self._waiting.get(key)
            if behind is None:
                self._waiting[key] = deque()
                ready.append(item)
            else:
                behind.append(item)
                self._held_back += 1
        return ready

    def release(self, items: Iterable[T]) -> list[T]:
        """Note that `items`, which were under way, are done; return those that may go now.

        Raises:
            KeyError: an item was not under way.
        """
        ready = []
        for item in items:
            key = self._key(item)
            behind = self._waiting[key]
            if behind:
                ready.append(behind.popleft())
                self._held_back -= 1
            else:
                del self._waiting[key]
        return ready

    @property
    def busy(self) -> int:
        """Keys with an item under way."""
        return len(self._waiting)

    @property
    def held_back(self) -> int:
        """Items that wait for an earlier one of their key."""
        return self._held_back
