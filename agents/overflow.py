"""The oldest deliveries of a sink whose backlog is full, made into dead letters.

For a sink that had rather lose the old than hold up the pipeline. What is just being attempted is
left alone, and so is what comes behind it; all else ends in the order in which it came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from faust.types import TP

if TYPE_CHECKING:
    from agents.deliver import Delivery

__all__ = ["InHand", "Overflow", "apportion"]

#: Letters that are sent at once.
_BATCH: Final = 200


class InHand:
    """The deliveries of one sink that this worker has, by partition, oldest first."""

    def __init__(self) -> None:
        self._of: dict[TP, dict[bytes, Delivery]] = {}

    def add(self, delivery: Delivery) -> None:
        """Take in one that came; the same entry from an earlier term is forgotten."""
        of_partition = self._of.setdefault(delivery.entry.tp, {})
        of_partition.pop(delivery.entry.id, None)
        of_partition[delivery.entry.id] = delivery

    def remove(self, delivery: Delivery) -> None:
        """Forget one that has ended, or is not ours any more."""
        of_partition = self._of.get(delivery.entry.tp, {})
        if of_partition.get(delivery.entry.id) is delivery:
            del of_partition[delivery.entry.id]

    def oldest(self, tp: TP, count: int) -> list[Delivery]:
        """Return so many that may end now: none that is tried, and none behind one of these."""
        tried = set()
        found: list[Delivery] = []
        for delivery in self._of.get(tp, {}).values():
            if len(found) == count:
                break
            if delivery.is_tried:
                tried.add(delivery.order_key)
            elif delivery.order_key not in tried:
                found.append(delivery)
        return found


class Overflow:
    """Ends deliveries that there is no room for.

    Arguments:
        bury: makes dead letters of deliveries, all at once.
    """

    def __init__(
        self, in_hand: InHand, bury: Callable[[Sequence[Delivery]], Awaitable[None]]
    ) -> None:
        self._in_hand = in_hand
        self._bury = bury

    async def relieve(self, over: Mapping[TP, int]) -> int:
        """End the oldest of each partition, so many of each; return how many there were."""
        ended = 0
        for tp, count in over.items():
            oldest = iter(self._in_hand.oldest(tp, count))
            while batch := list(islice(oldest, _BATCH)):
                # Some may have been begun, or ended, while the last batch was on its way.
                still = [delivery for delivery in batch if delivery.is_waiting]
                await self._bury(still)
                ended += len(still)
        return ended


def apportion(over: int, depths: Mapping[TP, int], held: Iterable[TP]) -> dict[TP, int]:
    """Return how many entries of each partition in `held` are to go, of `over` in all.

    Each partition gives by how much is in it. Every worker reckons the same from the same depths.
    """
    held = frozenset(held)
    total = sum(depths.values())
    found: dict[TP, int] = {}
    so_far = given = 0
    for tp in sorted(depths):
        so_far += depths[tp]
        upto = over * so_far // total if total else 0
        if tp in held and upto > given:
            found[tp] = upto - given
        given = upto
    return found
