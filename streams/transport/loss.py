"""Entries that nobody will ever read: what is known of them, and who keeps the account.

Redis tells nobody when entries go unread. :mod:`.positions` finds them by counting, :mod:`.groups`
where a stream or a group is gone, :mod:`.reader` and :mod:`.foreign` where an entry is pending and
its body is gone. Each is a :class:`Loss`, and is written into the app's :class:`Journal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = [
    "Journal",
    "Loss",
    "LossKind",
    "Position",
    "id_after",
    "id_before",
    "id_order",
    "order_of",
]

_SEQUENCE_MAX = 2**64 - 1


class LossKind(StrEnum):
    """How entries were lost."""

    #: Removed from the stream before they were read.
    TRIMMED_UNREAD = "trimmed_unread"
    #: Removed after they were delivered and before they were acknowledged, and in nobody's hand.
    #: Such an entry may have had its effects, if who had it died just then.
    TRIMMED_PENDING = "trimmed_pending"
    #: The stream was deleted, or all of Redis emptied. What was in it is gone.
    STREAM_RECREATED = "stream_recreated"
    #: The consumer group was gone and the stream was not; the stream is read again from its start.
    GROUP_LOST = "group_lost"
    #: The stream's last id is lower than one seen before: Redis has gone back in time.
    IDS_BACKWARDS = "ids_backwards"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Entries that were lost together."""

    kind: LossKind
    #: The full key of the stream.
    stream: str
    #: All of them have ids above this one; empty: not known.
    after_id: str = ""
    #: All of them have ids below this one; empty: nothing has come since.
    before_id: str = ""
    #: How many; of a stream, a group or a past that is gone: at least; None: not known.
    entries: int | None
    #: Which, where that is known.
    ids: tuple[str, ...] = ()
    #: With `total`, tells a loss that is reported again, by whoever takes over, from a new one:
    #: of an account, only what goes beyond the greatest total so far is new.
    account: str
    #: Entries lost on this account so far, these among them.
    total: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a stream was read, on the scale of what was ever added to it (``entries-added``)."""

    stream: str
    #: Which life of the stream and of its group the figures belong to.
    epoch: str
    #: The last entry delivered.
    id: str
    #: Entries up to it that were delivered, counted as lost, or there before the group was.
    accounted: int
    #: The last id that the stream has given out.
    last_id: str
    #: Entries that were ever added.
    added: int


class Journal(Protocol):
    """Where losses, and how far streams were read, are kept outside Redis."""

    async def record(self, loss: Loss) -> None:
        """Keep `loss`, and return when it is durable, however long that takes.

        The same entries may be reported again, in the same or in another portion, and count once:
        by `Loss.ids` where there are any, and by `Loss.account` and `Loss.total`.
        """

    async def recall(self, stream: str) -> Position | None:
        """Return what was last remembered of `stream`.

        Raises:
            JournalUnavailableError: it cannot be asked.
        """

    async def remember(self, position: Position) -> None:
        """Keep `position` in place of what was remembered before.

        Raises:
            JournalUnavailableError: it cannot be told.
        """


def id_order(entry_id: str) -> tuple[int, int]:
    """Return what ids are ordered by."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


def order_of(entry_id: str) -> tuple[int, int]:
    """Return what ids are ordered by; none at all is below the first."""
    return id_order(entry_id or "0-0")


def id_after(entry_id: str) -> str:
    """Return the smallest id above `entry_id`."""
    ms, sequence = id_order(entry_id)
    return f"{ms}-{sequence + 1}" if sequence < _SEQUENCE_MAX else f"{ms + 1}-0"


def id_before(entry_id: str) -> str:
    """Return the greatest id below `entry_id`."""
    ms, sequence = id_order(entry_id)
    return f"{ms}-{sequence - 1}" if sequence else f"{max(ms - 1, 0)}-{_SEQUENCE_MAX if ms else 0}"
