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
from itertools import chain, count
from typing import Final

from faust.types import TP

from .bundles import as_messages, place_of, stream_id_of
from .entry import Entry
from .layout import Stream

__all__ = ["Ledger"]

#: Entries of each partition that are enough for an agent that only tries whether it can go on.
_HELD: Final = 50


@dataclass(slots=True)
class _Bundle:
    """An entry of Redis' that several of ours came in."""

    size: int
    #: The places of those that are settled.
    settled: set[bytes]
    #: How many of them Redis knows of.
    noted: int


@dataclass(slots=True)
class _Partition:
    """One partition's entries in hand, by id and in the order of their delivery."""

    tp: TP
    #: This term of ownership; entries of an earlier one are no longer ours.
    epoch: int
    #: Unsettled entries that leave room for one more read, at most.
    most: int
    unsettled: dict[bytes, Entry] = field(default_factory=dict)
    #: Bundles that Redis holds as pending, by its id.
    bundles: dict[bytes, _Bundle] = field(default_factory=dict)
    #: Of bundles that were not read yet in this term: what was settled in an earlier one.
    recalled: dict[bytes, frozenset[bytes]] = field(default_factory=dict)
    #: Settled here, but Redis may still hold them as pending: not to be taken for new.
    unacknowledged: set[bytes] = field(default_factory=set)
    #: Acknowledged since a read of the pending entries was begun, whose answer may hold them.
    acknowledged_meanwhile: set[bytes] | None = None
    #: Entries being worked on.
    under_work: int = 0
    #: What is under work is finished, and nothing more begun.
    closing: bool = False

    def knows(self, stream_id: bytes) -> bool:
        """Whether the entry of Redis' was delivered in this term already."""
        meanwhile = self.acknowledged_meanwhile
        return (
            stream_id in self.unsettled
            or stream_id in self.unacknowledged
            or stream_id in self.bundles
            or (meanwhile is not None and stream_id in meanwhile)
        )


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
        self._held: set[str] = set()
        #: The same by term, which an entry is found by: no two partitions have one in common.
        self._terms: dict[int, _Partition] = {}
        self._epochs = count(1)
        self._changed = asyncio.Event()

    # -- Terms of ownership

    def open(self, tp: TP) -> None:
        """Begin a term over `tp`, with nothing in hand."""
        self.close(tp)
        partition = _Partition(tp, next(self._epochs), self._most(tp.topic))
        self._partitions[tp] = self._terms[partition.epoch] = partition

    def begin_closing(self, tp: TP) -> None:
        """Let nothing more of `tp` be begun; what is under work may be finished."""
        if partition := self._partitions.get(tp):
            partition.closing = True

    def close(self, tp: TP) -> None:
        """End the term over `tp`: what is in hand is somebody else's now."""
        if partition := self._partitions.pop(tp, None):
            del self._terms[partition.epoch]
        self._changed.set()

    def is_open(self, tp: TP) -> bool:
        """Whether `tp` may be read."""
        partition = self._partitions.get(tp)
        return partition is not None and not partition.closing

    # -- Entries

    def admit(self, tp: TP, delivered: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
        """Take in what Redis delivered, and return what was not in hand before.

        `delivered` has the id of each entry, and its fields and values as one list.
        """
        partition = self._partitions.get(tp)
        if partition is None or partition.closing:
            return []
        admitted: list[Entry] = []
        unsettled, bundles, epoch = partition.unsettled, partition.bundles, partition.epoch
        for stream_id, fields in delivered:
            if partition.knows(stream_id):
                continue
            messages = as_messages(stream_id, fields)
            if len(messages) > 1:
                before = partition.recalled.pop(stream_id, frozenset())
                left = [message for message in messages if place_of(message[0]) not in before]
                settled = set(before) if left else set()
                bundles[stream_id] = _Bundle(len(messages), settled, len(before))
                messages = left or messages
            for entry_id, of_entry in messages:
                entry = unsettled[entry_id] = Entry(tp, entry_id, of_entry, epoch)
                admitted.append(entry)
        return admitted

    @contextmanager
    def reading_pending(self, tps: Iterable[TP]) -> Iterator[None]:
        """Read what Redis holds as pending of `tps`, from the question to the last of the answer.

        By the time an answer is read, or an earlier part of it is handed on, entries in it may be
        acknowledged: they are not new for that, nor lost.
        """
        partitions = [self._partitions[tp] for tp in tps if tp in self._partitions]
        for partition in partitions:
            partition.acknowledged_meanwhile = set()
        try:
            yield
        finally:
            for partition in partitions:
                partition.acknowledged_meanwhile = None

    def recall(self, tp: TP, settled: Mapping[bytes, frozenset[bytes]]) -> None:
        """Leave out what was settled of bundles before this term: by id, the places in them."""
        if partition := self._partitions.get(tp):
            partition.recalled.update(settled)

    def holds(self, entry: Entry) -> bool:
        """Whether `entry` is (still) this worker's."""
        return entry.epoch in self._terms

    @contextmanager
    def working(self, entries: Sequence[Entry]) -> Iterator[frozenset[Entry]]:
        """Work on `entries`; gives those of them that are (still) this worker's to work on.

        A partition does not go to another worker before the work on its entries is over.
        """
        by_term: dict[int, list[Entry]] = {}
        for entry in entries:
            by_term.setdefault(entry.epoch, []).append(entry)
        begun: list[tuple[_Partition, list[Entry]]] = []
        for epoch, of_term in by_term.items():
            partition = self._terms.get(epoch)
            if partition is not None and not partition.closing:
                partition.under_work += len(of_term)
                begun.append((partition, of_term))
        try:
            yield frozenset(chain.from_iterable(of_term for _, of_term in begun))
        finally:
            for partition, of_term in begun:
                partition.under_work -= len(of_term)
            self._changed.set()

    def settle(self, entries: Iterable[Entry]) -> dict[TP, list[bytes]]:
        """Mark `entries` as done with and return the ids to acknowledge, by partition.

        That of a bundle comes with the last of its entries. What is not in hand (settled before,
        or of an earlier term) is passed over: whoever owns the partition now goes through it again
        and finds its effects in place.
        """
        by_term: dict[int, list[bytes]] = {}
        for entry in entries:
            by_term.setdefault(entry.epoch, []).append(entry.id)
        settled: dict[TP, list[bytes]] = {}
        for epoch, of_term in by_term.items():
            partition = self._terms.get(epoch)
            if partition is None:
                continue
            before = len(partition.unsettled)
            take = partition.unsettled.pop
            if ids := [entry_id for entry_id in of_term if take(entry_id, None) is not None]:
                settled[partition.tp] = complete = _complete(partition, ids)
                partition.unacknowledged.update(complete)
                if before > partition.most and self.has_room(partition.tp):
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
        lost = [entry_id for entry_id in ids if not partition.knows(entry_id)]
        partition.unacknowledged.update(lost)
        return lost

    def acknowledged(self, tp: TP, ids: Sequence[bytes]) -> None:
        """Note that Redis no longer holds `ids` as pending."""
        partition = self._partitions.get(tp)
        if partition is not None:
            partition.unacknowledged.difference_update(ids)
            if partition.acknowledged_meanwhile is not None:
                partition.acknowledged_meanwhile.update(ids)
            if partition.bundles:
                for stream_id in ids:
                    partition.bundles.pop(stream_id, None)
            self._changed.set()

    def size(self, tp: TP, stream_id: bytes) -> int:
        """How many came in an entry of Redis' that is not acknowledged."""
        partition = self._partitions.get(tp)
        bundle = partition.bundles.get(stream_id) if partition else None
        return bundle.size if bundle else 1

    def in_hand(self, tp: TP) -> int:
        """Entries of Redis' that were delivered and that it may hold as pending."""
        partition = self._partitions.get(tp)
        if partition is None:
            return 0
        unsettled = {stream_id_of(entry_id) for entry_id in partition.unsettled}
        return len(unsettled | partition.unacknowledged | partition.bundles.keys())

    def is_in_hand(self, tp: TP, stream_id: bytes) -> bool:
        """Whether Redis may hold the bundle `stream_id` as pending for this worker."""
        partition = self._partitions.get(tp)
        return partition is not None and stream_id in partition.bundles

    def partly_settled(self, tp: TP) -> dict[bytes, frozenset[bytes]]:
        """What is settled of bundles of which not all is: by id, the places in them.

        Those of which no more is settled than was noted are left out.
        """
        partition = self._partitions.get(tp)
        if partition is None:
            return {}
        return {
            stream_id: frozenset(bundle.settled)
            for stream_id, bundle in partition.bundles.items()
            if bundle.noted < len(bundle.settled) < bundle.size
        }

    def noted(self, tp: TP, places: Mapping[bytes, frozenset[bytes]]) -> None:
        """Note that Redis knows so much of what `partly_settled` has returned."""
        partition = self._partitions.get(tp)
        if partition is not None:
            for stream_id, of_entry in places.items():
                if bundle := partition.bundles.get(stream_id):
                    bundle.noted = len(of_entry)

    def uncounted(self, tp: TP) -> int:
        """Messages of `tp` that are settled, and that Redis may count as not done with."""
        partition = self._partitions.get(tp)
        if partition is None:
            return 0
        of_bundles = sum(
            max(len(bundle.settled) - bundle.noted, 0) for bundle in partition.bundles.values()
        )
        return of_bundles + len(partition.unacknowledged - partition.bundles.keys())

    def hold(self, topic: str) -> None:
        """Have little of `topic` in hand: its agent takes nothing for a while, and says when."""
        self._held.add(topic)
        self._limit(topic)

    def let_go(self, topic: str) -> None:
        """Read `topic` as others are read."""
        if topic in self._held:
            self._held.remove(topic)
            self._limit(topic)
            self._on_room()

    # -- Questions

    def has_room(self, tp: TP) -> bool:
        """Whether one more read of `tp` fits."""
        partition = self._partitions.get(tp)
        return (
            partition is not None
            and not partition.closing
            and len(partition.unsettled) <= partition.most
        )

    def with_room(self, streams: Iterable[Stream]) -> list[Stream]:
        """Return those of `streams` of which one more read fits.

        Asked of all of them before each read, and so in one go.
        """
        partitions = self._partitions
        return [
            stream
            for stream in streams
            if (partition := partitions.get(stream.tp)) is not None
            and len(partition.unsettled) <= partition.most
            and not partition.closing
        ]

    def _most(self, topic: str) -> int:
        return min(self._full_above, _HELD) if topic in self._held else self._full_above

    def _limit(self, topic: str) -> None:
        for tp, partition in self._partitions.items():
            if tp.topic == topic:
                partition.most = self._most(topic)

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


def _complete(partition: _Partition, ids: list[bytes]) -> list[bytes]:
    """Return the ids that Redis knows of what is settled with `ids`, as far as all of it is."""
    if not partition.bundles:
        return ids
    complete = []
    for entry_id in ids:
        stream_id = stream_id_of(entry_id)
        if bundle := partition.bundles.get(stream_id):
            bundle.settled.add(place_of(entry_id))
            if len(bundle.settled) < bundle.size:
                continue
        complete.append(stream_id)
    return complete
