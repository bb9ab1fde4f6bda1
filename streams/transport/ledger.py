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
from itertools import chain, count
from typing import Final

from faust.types import TP

from .entry import Entry
from .layout import Stream
from .term import Term

__all__ = ["Ledger"]

#: Entries of each partition that are enough for an agent that only tries whether it can go on.
_HELD: Final = 50


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
        self._by_tp: dict[TP, Term] = {}
        self._held: set[str] = set()
        #: The same by term, which an entry is found by: no two partitions have one in common.
        self._by_epoch: dict[int, Term] = {}
        self._epochs = count(1)
        self._changed = asyncio.Event()

    # -- Terms of ownership

    def open(self, tp: TP) -> None:
        """Begin a term over `tp`, with nothing in hand."""
        self.close(tp)
        term = Term(tp, next(self._epochs), self._most(tp.topic))
        self._by_tp[tp] = self._by_epoch[term.epoch] = term

    def begin_closing(self, tp: TP) -> None:
        """Let nothing more of `tp` be begun; what is under work may be finished."""
        if term := self._by_tp.get(tp):
            term.closing = True

    def close(self, tp: TP) -> None:
        """End the term over `tp`: what is in hand is somebody else's now."""
        if term := self._by_tp.pop(tp, None):
            del self._by_epoch[term.epoch]
        self._changed.set()

    def is_open(self, tp: TP) -> bool:
        """Whether `tp` may be read."""
        term = self._by_tp.get(tp)
        return term is not None and not term.closing

    # -- Entries

    def admit(self, tp: TP, delivered: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
        """Take in what Redis delivered, and return what was not in hand before.

        `delivered` has the id of each entry, and its fields and values as one list.
        """
        term = self._by_tp.get(tp)
        return term.admit(delivered) if term is not None and not term.closing else []

    @contextmanager
    def reading_pending(self, tps: Iterable[TP]) -> Iterator[None]:
        """Read what Redis holds as pending of `tps`, from the question to the last of the answer.

        By the time an answer is read, or an earlier part of it is handed on, entries in it may be
        acknowledged: they are not new for that, nor lost.
        """
        terms = [self._by_tp[tp] for tp in tps if tp in self._by_tp]
        for term in terms:
            term.acknowledged_meanwhile = set()
        try:
            yield
        finally:
            for term in terms:
                term.acknowledged_meanwhile = None

    def recall(self, tp: TP, settled: Mapping[bytes, frozenset[bytes]]) -> None:
        """Leave out what was settled of bundles before this term: by id, the places in them."""
        if term := self._by_tp.get(tp):
            term.recalled.update(settled)

    def holds(self, entry: Entry) -> bool:
        """Whether `entry` is (still) this worker's."""
        return entry.epoch in self._by_epoch

    @contextmanager
    def working(self, entries: Sequence[Entry]) -> Iterator[frozenset[Entry]]:
        """Work on `entries`; gives those of them that are (still) this worker's to work on.

        A partition does not go to another worker before the work on its entries is over.
        """
        by_term: dict[int, list[Entry]] = {}
        for entry in entries:
            by_term.setdefault(entry.epoch, []).append(entry)
        begun: list[tuple[Term, list[Entry]]] = []
        for epoch, of_term in by_term.items():
            term = self._by_epoch.get(epoch)
            if term is not None and not term.closing:
                term.under_work += len(of_term)
                begun.append((term, of_term))
        try:
            yield frozenset(chain.from_iterable(of_term for _, of_term in begun))
        finally:
            for term, of_term in begun:
                term.under_work -= len(of_term)
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
            if (term := self._by_epoch.get(epoch)) is None:
                continue
            had_room = term.has_room
            if (complete := term.settle(of_term)) is not None:
                settled[term.tp] = complete
                if not had_room and term.has_room:
                    self._on_room()
        if settled:
            self._changed.set()
        return settled

    def lose(self, tp: TP, ids: Iterable[bytes]) -> list[bytes]:
        """Return those of `ids`, trimmed while they were pending, that are lost, once each.

        What is in hand is not: this worker has the whole entry and may still finish it.
        """
        term = self._by_tp.get(tp)
        return term.lose(ids) if term is not None else []

    def acknowledged(self, tp: TP, ids: Sequence[bytes]) -> None:
        """Note that Redis no longer holds `ids` as pending."""
        if term := self._by_tp.get(tp):
            term.acknowledged(ids)
            self._changed.set()

    def size(self, tp: TP, stream_id: bytes) -> int:
        """How many came in an entry of Redis' that is not acknowledged."""
        term = self._by_tp.get(tp)
        bundle = term.bundles.get(stream_id) if term is not None else None
        return bundle.size if bundle else 1

    def in_hand(self, tp: TP) -> int:
        """Entries of Redis' that were delivered and that it may hold as pending."""
        term = self._by_tp.get(tp)
        return term.in_hand() if term is not None else 0

    def is_in_hand(self, tp: TP, stream_id: bytes) -> bool:
        """Whether Redis may hold the bundle `stream_id` as pending for this worker."""
        term = self._by_tp.get(tp)
        return term is not None and stream_id in term.bundles

    def partly_settled(self, tp: TP) -> dict[bytes, frozenset[bytes]]:
        """What is settled of bundles of which not all is: by id, the places in them.

        Those of which no more is settled than was noted are left out.
        """
        term = self._by_tp.get(tp)
        return term.partly_settled() if term is not None else {}

    def noted(self, tp: TP, places: Mapping[bytes, frozenset[bytes]]) -> None:
        """Note that Redis knows so much of what `partly_settled` has returned."""
        if term := self._by_tp.get(tp):
            term.note(places)

    def uncounted(self, tp: TP) -> int:
        """Messages of `tp` that are settled, and that Redis may count as not done with."""
        term = self._by_tp.get(tp)
        return term.uncounted() if term is not None else 0

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
        term = self._by_tp.get(tp)
        return term is not None and term.has_room

    def with_room(self, streams: Iterable[Stream]) -> list[Stream]:
        """Return those of `streams` of which one more read fits.

        Asked of all of them before each read, and so in one go.
        """
        by_tp = self._by_tp
        return [
            stream
            for stream in streams
            if (term := by_tp.get(stream.tp)) is not None and term.has_room
        ]

    def _most(self, topic: str) -> int:
        return min(self._full_above, _HELD) if topic in self._held else self._full_above

    def _limit(self, topic: str) -> None:
        for tp, term in self._by_tp.items():
            if tp.topic == topic:
                term.most = self._most(topic)

    def unsettled(self, tp: TP) -> int:
        """Entries of `tp` in hand."""
        term = self._by_tp.get(tp)
        return len(term.unsettled) if term is not None else 0

    def total_unsettled(self) -> int:
        """Entries in hand over all partitions."""
        return sum(len(term.unsettled) for term in self._by_tp.values())

    async def wait_finished(self, tp: TP, *, everything: bool) -> None:
        """Wait until the work on `tp` is over and acknowledged, or its term has ended.

        Arguments:
            everything: wait for all that is in hand, and not only for what is under work.
        """
        while True:
            term = self._by_tp.get(tp)
            if term is None:
                return
            waiting = term.under_work or term.unacknowledged
            if not waiting and not (everything and term.unsettled):
                return
            self._changed.clear()
            await self._changed.wait()
