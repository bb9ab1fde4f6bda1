"""What Redis holds as pending of the streams that are read, gone through from oldest to newest.

That is so at the beginning of a term, after each failure, since Redis may count entries as
delivered whose delivery never arrived, and now and then without one. Until a partition's pending
entries are through, nothing new of it is read: so what a dead owner left keeps its place.

Now and then: each partition once in `sweep_s`, one after another. All of them at once would hold
up what is new for as long as it takes to read whatever waits for a sink that is away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from faust.types import TP

from .layout import Stream
from .ledger import Ledger
from .parts import Parts

__all__ = ["PendingEntries", "Records", "Sweep"]

#: Entries of one stream as Redis gives them: the id, and fields and values; None: trimmed.
Records = list[tuple[bytes, list[bytes] | None]]
#: Reads up to so many entries of each stream that are pending behind the ids; by key.
Read = Callable[[list[Stream], list[bytes], int], Awaitable[dict[bytes, Records]]]
HandOn = Callable[[Stream, Records], Awaitable[None]]
Lose = Callable[[TP, list[bytes]], None]

_START: Final = b"0"


class Sweep:
    """Whose turn it is, where nothing has failed: each has one in `interval_s`, evenly spread.

    Arguments:
        clock: seconds since some moment.
    """

    def __init__(self, *, interval_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        #: Those whose turn was longest ago come first.
        self._turns: dict[Stream, None] = {}
        self._at_s = clock()

    def had_turn(self, stream: Stream) -> None:
        """Note that `stream` has just had one, or is new."""
        self._turns.pop(stream, None)
        self._turns[stream] = None

    def forget(self, stream: Stream) -> None:
        """Give `stream` no more turns."""
        self._turns.pop(stream, None)

    def due(self) -> list[Stream]:
        """Return whose turn has come since the last call; for them it is over with that."""
        now_s = self._clock()
        if not self._turns:
            self._at_s = now_s
            return []
        step_s = self._interval_s / len(self._turns)
        steps = int((now_s - self._at_s) / step_s)
        if not steps:
            return []
        due = list(self._turns)[:steps]
        # Nobody has two turns for a long wait.
        self._at_s = now_s if steps > len(due) else self._at_s + steps * step_s
        for stream in due:
            self.had_turn(stream)
        return due


@dataclass(slots=True, eq=False)
class _Passage:
    """A partition's pending entries, being gone through once."""

    #: The last entry that was read.
    after: bytes = _START


class PendingEntries:
    """Goes through pending entries, and knows which streams still have to be.

    Arguments:
        read_size: entries of each of these streams that one read may bring and that are new.
        count_max: entries of each that one read may ask for, new or not.
        lose: is told the ids of entries that were trimmed while they were pending.
    """

    def __init__(
        self,
        ledger: Ledger,
        parts: Parts,
        *,
        sweep_s: float,
        read: Read,
        read_size: Callable[[list[Stream]], int],
        count_max: int,
        hand_on: HandOn,
        lose: Lose,
    ) -> None:
        self._ledger = ledger
        self._parts = parts
        self._read = read
        self._read_size = read_size
        self._count_max = count_max
        self._hand_on = hand_on
        self._lose = lose
        self._sweep = Sweep(interval_s=sweep_s)
        #: Of those that are not through.
        self._passages: dict[TP, _Passage] = {}

    def begin(self, stream: Stream) -> None:
        """Go through `stream` from the start."""
        self._passages[stream.tp] = _Passage()
        self._sweep.had_turn(stream)

    def forget(self, stream: Stream) -> None:
        """Go through `stream` no more."""
        self._passages.pop(stream.tp, None)
        self._sweep.forget(stream)

    def due(self) -> list[Stream]:
        """Return whose turn it is to be gone through although nothing has failed."""
        return self._sweep.due()

    def left(self, streams: Iterable[Stream]) -> list[Stream]:
        """Return those of `streams` that are not through."""
        if not self._passages:
            return []
        return [stream for stream in streams if stream.tp in self._passages]

    async def go_on(self, streams: list[Stream]) -> None:
        """Read once of `streams`, all of them not through, and hand on what was not in hand.

        Raises:
            GroupLostError: a stream or its group is gone.
            TransportError: Redis is unreachable or refuses.
        """
        # Those with bundles by themselves, since of them only little can be asked for; but both at
        # one go: what fails for some of them is not to pass for over when others were read.
        await self._go_on([stream for stream in streams if not stream.config.is_bundled])
        await self._go_on([stream for stream in streams if stream.config.is_bundled])

    async def _go_on(self, streams: list[Stream]) -> None:
        await self._parts.recall(streams)
        if streams := self.left(streams):  # some may have been given up meanwhile
            with self._ledger.reading_pending(stream.tp for stream in streams):
                await self._read_of(streams)

    async def _read_of(self, streams: list[Stream]) -> None:
        passages = [self._passages[stream.tp] for stream in streams]
        count = self._count(streams, passages)
        by_key = await self._read(streams, [passage.after for passage in passages], count)
        for stream, passage in zip(streams, passages, strict=True):
            if records := by_key.get(stream.key, []):
                passage.after = records[-1][0]
            if gone := [entry_id for entry_id, fields in records if fields is None]:
                self._lose(stream.tp, gone)
            await self._hand_on(stream, records)
            # Meanwhile it may have been given up, or begun anew.
            if len(records) < count and self._passages.get(stream.tp) is passage:
                del self._passages[stream.tp]
                await self._parts.clear(stream)

    def _count(self, streams: list[Stream], passages: list[_Passage]) -> int:
        """How many entries of each to ask for.

        What is in hand is among them, and takes no room: so one read goes through a partition of
        which little waits and nothing was missed.
        """
        count = self._read_size(streams)
        if any(passage.after != _START for passage in passages):
            return count
        in_hand = min(self._ledger.in_hand(stream.tp) for stream in streams)
        return max(count, min(count + in_hand, self._count_max))
