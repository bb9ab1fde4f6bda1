"""When streams that somebody else writes are read, and which of them by themselves.

Each read costs as much as what is done for dozens of entries, here and in every stage behind. So
what comes in a steady flow gathers for a few milliseconds; what comes after a pause is read at
once. And what is not read in time there may be trimmed, while what is ours waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from faust.types import TP

from .layout import Stream

__all__ = ["Pacing"]

#: Reads in a row for streams that have more to read, before the others have a turn.
_ALONE_IN_A_ROW: Final = 4


class Pacing:
    """What the last reads of others' streams brought, and what follows for the next.

    Arguments:
        gather_ms: for how long a flow gathers, at most.
        clock: seconds since some moment.
    """

    def __init__(self, *, gather_ms: float, clock: Callable[[], float] = monotonic) -> None:
        self._gather_s = gather_ms / 1000
        self._clock = clock
        #: Of the last read that brought something.
        self._came_at: dict[TP, float] = {}
        self._gathers_until: dict[TP, float] = {}
        #: Whose last read brought several entries, or as many as it might: there is more, or will
        #: be in a moment.
        self._flowing: set[TP] = set()
        self._alone_in_a_row = 0

    def note(self, tp: TP, came: int, *, full: bool) -> None:
        """Note that a read of `tp` brought `came` entries, as many as were asked for if `full`."""
        if came > 1 or full:
            self._flowing.add(tp)
        else:
            self._flowing.discard(tp)
        if not came:
            return
        now = self._clock()
        is_flow = came > 1 or now - self._came_at.get(tp, now - self._gather_s) < self._gather_s
        if is_flow and not full:
            self._gathers_until[tp] = now + self._gather_s
        self._came_at[tp] = now

    def forget(self, tp: TP) -> None:
        """Drop what is known of `tp`, which is read no more."""
        self._came_at.pop(tp, None)
        self._gathers_until.pop(tp, None)
        self._flowing.discard(tp)

    def ready(self, streams: list[Stream]) -> tuple[list[Stream], float]:
        """Return those of `streams` that do not gather, and in how many seconds more of them do.

        That is 0 where none gathers.
        """
        if not self._gathers_until:
            return streams, 0.0
        now = self._clock()
        self._gathers_until = {tp: at for tp, at in self._gathers_until.items() if at > now}
        gathering = [s.tp for s in streams if s.tp in self._gathers_until]
        if not gathering:
            return streams, 0.0
        ready = [stream for stream in streams if stream.tp not in self._gathers_until]
        return ready, min(self._gathers_until[tp] for tp in gathering) - now

    def alone(self, streams: Sequence[Stream]) -> list[Stream]:
        """Return those of `streams` that are to be read now without the others; none: all are."""
        flowing = [stream for stream in streams if stream.tp in self._flowing]
        if flowing and self._alone_in_a_row < _ALONE_IN_A_ROW:
            self._alone_in_a_row += 1
            return flowing
        self._alone_in_a_row = 0
        return []
