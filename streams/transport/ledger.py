"""What this worker has in hand: the entries it was given and has not settled yet.

The ledger is the worker's only memory of an entry between its delivery and its
acknowledgement. It bounds that memory (a partition with too much in hand is not read), tells
a redelivered entry from one that is already under way, and knows what a leaving worker still
has to wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from faust.types import TP

from .entry import Entry

__all__ = ["Ledger"]


@dataclass(slots=True)
class _Partition:
    """One partition's entries in hand, by id and in the order of their delivery."""

    unsettled: dict[bytes, Entry] = field(default_factory=dict)
    #: Settled here, but Redis may still hold them as pending: not to be taken for new.
    unacknowledged: set[bytes] = field(default_factory=set)


class Ledger:
    """Entries delivered to this worker, from delivery to acknowledgement.

    Arguments:
        capacity: unsettled entries per partition, at most.
        read_size: entries that one read may add; a partition has room while that many fit.
        on_room: called when a partition that was full has room again.
    """

    def __init__(self, *, capacity: int, read_size: int, on_room: Callable[[], None]) -> None:
        self._full_above = capacity - read_size
        self._on_room = on_room
        self._partitions: dict[TP, _Partition] = {}
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()
        #: The present term of ownership; entries of an earlier one are no longer ours.
        self.epoch = 0

    def begin_epoch(self, partitions: Iterable[TP]) -> int:
        """Forget everything in hand and start a new term over `partitions`."""
        self.epoch += 1
        self._partitions = {tp: _Partition() for tp in partitions}
        return self.epoch

    def partitions(self) -> list[TP]:
        """The partitions of this term."""
        return list(self._partitions)

    def admit(
        self, tp: TP, delivered: Iterable[tuple[bytes, Mapping[bytes, bytes]]]
    ) -> list[Entry]:
        """Take in what Redis delivered and return the entries that were not in hand before."""
        partition = self._partitions.get(tp)
        if partition is None:
            return []
        admitted = []
        for entry_id, fields in delivered:
            if entry_id in partition.unsettled or entry_id in partition.unacknowledged:
                continue
            entry = Entry(tp, entry_id, fields, self.epoch)
            partition.unsettled[entry_id] = entry
            admitted.append(entry)
        return admitted

    def settle(self, entries: Iterable[Entry]) -> dict[TP, list[bytes]]:
        """Mark `entries` as done with and return the ids to acknowledge, by partition.

        What is not in hand (settled before, or of an earlier term) is passed over: whoever
        owns the partition now goes through it again and finds its effects in place.
        """
        settled: dict[TP, list[bytes]] = {}
        for entry in entries:
            partition = self._partitions.get(entry.tp)
            if entry.epoch != self.epoch or partition is None:
                continue
            if partition.unsettled.pop(entry.id, None) is not None:
                partition.unacknowledged.add(entry.id)
                settled.setdefault(entry.tp, []).append(entry.id)
        for tp, ids in settled.items():
            remaining = len(self._partitions[tp].unsettled)
            if remaining <= self._full_above < remaining + len(ids):
                self._on_room()
        return settled

    def acknowledged(self, tp: TP, ids: Iterable[bytes]) -> None:
        """Note that Redis no longer holds `ids` as pending."""
        partition = self._partitions.get(tp)
        if partition is not None:
            partition.unacknowledged.difference_update(ids)

    def has_room(self, tp: TP) -> bool:
        """Whether one more read of `tp` fits."""
        partition = self._partitions.get(tp)
        return partition is not None and len(partition.unsettled) <= self._full_above

    def unsettled(self, tp: TP) -> int:
        """Entries of `tp` in hand."""
        partition = self._partitions.get(tp)
        return len(partition.unsettled) if partition else 0

    def total_unsettled(self) -> int:
        """Entries in hand over all partitions."""
        return sum(len(partition.unsettled) for partition in self._partitions.values())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Mark a stretch of work that a leaving worker waits for."""
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no stretch of work is under way."""
        await self._idle.wait()
