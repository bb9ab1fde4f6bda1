"""One term of ownership over one partition: the entries in hand, by id and in order of delivery.

An entry of Redis' may be a bundle that several of ours came in (:mod:`.bundles`); it is
acknowledged with the last of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from faust.types import TP

from .bundles import as_messages, place_of, stream_id_and_place, stream_id_of
from .entry import Entry

__all__ = ["Term"]


@dataclass(slots=True)
class _Bundle:
    """An entry of Redis' that several of ours came in."""

    size: int
    #: The places of those that are settled.
    settled: set[bytes]
    #: How many of them Redis knows of.
    noted: int


@dataclass(slots=True)
class Term:
    """What was delivered in this term and Redis may still hold as pending."""

    tp: TP
    #: Its number; entries of an earlier term are no longer ours.
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

    @property
    def has_room(self) -> bool:
        """Whether one more read fits."""
        return len(self.unsettled) <= self.most and not self.closing

    def knows(self, stream_id: bytes) -> bool:
        """Whether the entry of Redis' was delivered in this term already."""
        meanwhile = self.acknowledged_meanwhile
        return (
            stream_id in self.unsettled
            or stream_id in self.unacknowledged
            or stream_id in self.bundles
            or (meanwhile is not None and stream_id in meanwhile)
        )

    def admit(self, delivered: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
        """Take in what Redis delivered, and return what was not in hand before."""
        admitted: list[Entry] = []
        tp, epoch, unsettled = self.tp, self.epoch, self.unsettled
        for stream_id, fields in delivered:
            if self.knows(stream_id):
                continue
            messages = as_messages(stream_id, fields)
            if len(messages) > 1:
                before = self.recalled.pop(stream_id, frozenset())
                left = [message for message in messages if place_of(message[0]) not in before]
                settled = set(before) if left else set()
                self.bundles[stream_id] = _Bundle(len(messages), settled, len(before))
                messages = left or messages
            for entry_id, of_entry in messages:
                entry = unsettled[entry_id] = Entry(tp, entry_id, of_entry, epoch)
                admitted.append(entry)
        return admitted

    def settle(self, entry_ids: Iterable[bytes]) -> list[bytes] | None:
        """Mark entries as done with, and return the ids to acknowledge.

        None: none of them was in hand.
        """
        take = self.unsettled.pop
        ids = [entry_id for entry_id in entry_ids if take(entry_id, None) is not None]
        if not ids:
            return None
        complete = self._complete(ids) if self.bundles else ids
        self.unacknowledged.update(complete)
        return complete

    def _complete(self, ids: Iterable[bytes]) -> list[bytes]:
        """Return the ids that Redis knows of what is settled with `ids`, where all of it is."""
        complete = []
        for entry_id in ids:
            stream_id, place = stream_id_and_place(entry_id)
            if bundle := self.bundles.get(stream_id):
                bundle.settled.add(place)
                if len(bundle.settled) < bundle.size:
                    continue
            complete.append(stream_id)
        return complete

    def lose(self, ids: Iterable[bytes]) -> list[bytes]:
        """Return those of `ids`, trimmed while they were pending, that are not in hand."""
        lost = [entry_id for entry_id in ids if not self.knows(entry_id)]
        self.unacknowledged.update(lost)
        return lost

    def acknowledged(self, ids: Sequence[bytes]) -> None:
        """Note that Redis no longer holds `ids` as pending."""
        self.unacknowledged.difference_update(ids)
        if self.acknowledged_meanwhile is not None:
            self.acknowledged_meanwhile.update(ids)
        if self.bundles:
            for stream_id in ids:
                self.bundles.pop(stream_id, None)

    def in_hand(self) -> int:
        """Entries of Redis' that it may hold as pending."""
        unsettled = {stream_id_of(entry_id) for entry_id in self.unsettled}
        return len(unsettled | self.unacknowledged | self.bundles.keys())

    def partly_settled(self) -> dict[bytes, frozenset[bytes]]:
        """What is settled of bundles of which not all is: by id, the places in them.

        Those of which no more is settled than was noted are left out.
        """
        return {
            stream_id: frozenset(bundle.settled)
            for stream_id, bundle in self.bundles.items()
            if bundle.noted < len(bundle.settled) < bundle.size
        }

    def note(self, places: Mapping[bytes, frozenset[bytes]]) -> None:
        """Note that Redis knows so much of what `partly_settled` has returned."""
        for stream_id, of_entry in places.items():
            if bundle := self.bundles.get(stream_id):
                bundle.noted = len(of_entry)

    def uncounted(self) -> int:
        """Messages that are settled, and that Redis may count as not done with."""
        of_bundles = sum(
            max(len(bundle.settled) - bundle.noted, 0) for bundle in self.bundles.values()
        )
        return of_bundles + len(self.unacknowledged - self.bundles.keys())
