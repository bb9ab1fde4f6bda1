"""What this worker has in hand: the entries it was given and has not settled yet.

The ledger is the worker's only memory of an entry between its delivery and its
acknowledgement. It bounds that memory (a partition with too much in hand is not read), tells
a redelivered entry from one that is already under way, and knows what has to be finished
before a partition can go to another worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from faust.types import TP

from .entry import Entry

__all__ = ["Ledger"]


@dataclass(slots=True)
class _Partition:
    """One partition's entries in hand, by id and in the order of their delivery."""

    #: This term of ownership; entries of an earlier one are no longer ours.
    epoch: int
    unsettled: dict[bytes, Entry] = field(default_factory=dict)
    #: Settled here, but Redis may still hold them as pending: not to be taken for new.
    unacknowledged: set[bytes] = field(default_factory=set)
    #: Entries being worked on.
    under_work: int = 0
    #: What is under work is finished, and nothing more begun.
    closing: bool = False


class Ledger:
    """Entries delivered to this worker, from delivery to acknowledgement.

    Arguments:
        capacity: unsettled entries per partition, at most.
        read_size: entries that one read may add; a partition has room while that many fit.
        on_room: called when a partition that was full has room again.
    """

    def __init__(self, *, capacity: int, read_size: int, on_room: Callable[[], None]) -> None:
        #: Entries of one partition that may be in hand.
        self.capacity = capacity
        self._full_above = capacity - read_size
        self._on_room = on_room
        self._partitions: dict[TP, _Partition] = {}
        self._epochs = count(1)
        self._changed = asyncio.Event()

    # -- Terms of ownership

    def open(self, tp: TP) -> None:
        """Begin a term over `tp`, with nothing in hand."""
        self._partitions[tp] = _Partition(next(self._epochs))

    def begin_closing(self, tp: TP) -> None:
        """Let nothing more of `tp` be begun; what is under work may be finished."""
        if partition := self._partitions.get(tp):
            partition.closing = True

    def close(self, tp: TP) -> None:
        """End the term over `tp`: what is in hand is somebody else's now."""
        self._partitions.pop(tp, None)
        self._changed.set()

    def is_open(self, tp: TP) -> bool:
        """Whether `tp` may be read."""
        partition = self._partitions.get(tp)
        return partition is not None and not partition.closing

    # -- Entries

    def admit(
        self, tp: TP, delivered: Iterable[tuple[bytes, Mapping[bytes, bytes]]]
    ) -> list[Entry]:
        """Take in what Redis delivered and return the entries that were not in hand before."""
        partition = self._partitions.get(tp)
        if partition is None or partition.closing:
            return []
        admitted = []
        for entry_id, fields in delivered:
            if entry_id in partition.unsettled or entry_id in partition.unacknowledged:
                continue
            entry = Entry(tp, entry_id, fields, partition.epoch)
            partition.unsettled[entry_id] = entry
            admitted.append(entry)
        return admitted

    def _holder(self, entry: Entry) -> _Partition | None:
        partition = self._partitions.get(entry.tp)
        return partition if partition is not None and partition.epoch == entry.epoch else None

    def holds(self, entry: Entry) -> bool:
        """Whether `entry` is (still) this worker's."""
        return self._holder(entry) is not None

    @contextmanager
    def working(self, entries: Sequence[Entry]) -> Iterator[frozenset[Entry]]:
        """Work on `entries`; gives those of them that are (still) this worker's to work on.

        A partition does not go to another worker before the work on its entries is over.
        """
        begun: list[tuple[_Partition, Entry]] = []
        for entry in entries:
            partition = self._holder(entry)
            if partition is not None and not partition.closing:
                partition.under_work += 1
                begun.append((partition, entry))
        try:
            yield frozenset(entry for _, entry in begun)
        finally:
            for partition, _ in begun:
                partition.under_work -= 1
            self._changed.set()

    def settle(self, entries: Iterable[Entry]) -> dict[TP, list[bytes]]:
        """Mark `entries` as done with and return the ids to acknowledge, by partition.

        What is not in hand (settled before, or of an earlier term) is passed over: whoever
        owns the partition now goes through it again and finds its effects in place.
        """
        settled: dict[TP, list[bytes]] = {}
        for entry in entries:
            partition = self._holder(entry)
            if partition is not None and partition.unsettled.pop(entry.id, None) is not None:
                partition.unacknowledged.add(entry.id)
                settled.setdefault(entry.tp, []).append(entry.id)
        for tp, ids in settled.items():
            remaining = len(self._partitions[tp].unsettled)
            if remaining <= self._full_above < remaining + len(ids):
                self._on_room()
        if settled:
            self._changed.set()
        return settled

    def lose(self, tp: TP, ids: Iterable[bytes]) -> list[bytes]:
        """Return those of `ids`, trimmed while they were pending, that are lost, once each.

        What is in hand is not: this worker has the whole entry and may still finish it.
        """
        partition = self._partitions.get(tp)
        if partition is None:
            return []
        lost = [
            entry_id
            for entry_id in ids
            if entry_id not in partition.unsettled and entry_id not in partition.unacknowledged
        ]
        partition.unacknowledged.update(lost)
        return lost

    def acknowledged(self, tp: TP, ids: Iterable[bytes]) -> None:
        """Note that Redis no longer holds `ids` as pending."""
        partition = self._partitions.get(tp)
        if partition is not None:
            partition.unacknowledged.difference_update(ids)
            self._changed.set()

    # -- Questions

    def has_room(self, tp: TP) -> bool:
        """Whether one more read of `tp` fits."""
        partition = self._partitions.get(tp)
        return (
            partition is not None
            and not partition.closing
            and len(partition.unsettled) <= self._full_above
        )

    def unsettled(self, tp: TP) -> int:
        """Entries of `tp` in hand."""
        partition = self._partitions.get(tp)
        return len(partition.unsettled) if partition else 0

    def total_unsettled(self) -> int:
        """Entries in hand over all partitions."""
        return sum(len(partition.unsettled) for partition in self._partitions.values())

    async def wait_finished(self, tp: TP, *, everything: bool) -> None:
        """Wait until the work on `tp` is over and acknowledged, or its term has ended.

        Arguments:
            everything: wait for all that is in hand, and not only for what is under work.
        """
        while True:
            partition = self._partitions.get(tp)
            if partition is None:
                return
            waiting = partition.under_work or partition.unacknowledged
            if not waiting and not (everything and partition.unsettled):
                return
            self._changed.clear()
            await self._changed.wait()
