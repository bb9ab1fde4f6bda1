"""What waits in each stream, by our own count.

Redis' ``lag`` is wrong for good once the producer has trimmed what nobody had read, so what waits
in its stream is counted. Our own streams are never trimmed past their group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import redis.asyncio

from streams.transport import Stream, StreamLayout, broker_errors

__all__ = ["Backlog", "Backlogs", "read_backlogs"]

_SCRIPT: Final = resources.files("streams.lua").joinpath("backlogs.lua").read_text("utf-8")
#: A count of what the producer has written ends here: its stream holds about 10,000.
_COUNT_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is left to do in one stream, or in several."""

    #: Entries that nobody has read.
    unread: int = 0
    #: Entries that were read and are not acknowledged.
    pending: int = 0
    #: How long the oldest of them has been there, in seconds; None: there is none.
    oldest_age_s: float | None = None

    @property
    def entries(self) -> int:
        """All that is left to do."""
        return self.unread + self.pending

    def __add__(self, other: Backlog) -> Backlog:
        ages = [b.oldest_age_s for b in (self, other) if b.oldest_age_s is not None]
        return Backlog(
            self.unread + other.unread, self.pending + other.pending, max(ages, default=None)
        )


@dataclass(frozen=True, slots=True)
class Backlogs:
    """All streams at one moment."""

    #: Seconds since the epoch, by Redis' clock.
    at_s: float
    by_stream: dict[Stream, Backlog]

    def of(self, topic: str) -> Backlog:
        """The backlog of all partitions of `topic`."""
        return sum((b for s, b in self.by_stream.items() if s.tp.topic == topic), Backlog())


async def read_backlogs(
    client: redis.asyncio.Redis, layout: StreamLayout, topics: Iterable[str], *, group: str
) -> Backlogs:
    """Read the backlog of all partitions of `topics`, in one step.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    streams = sorted(layout.all_streams(topics), key=lambda stream: stream.is_ours)
    external = sum(not stream.is_ours for stream in streams)
    with broker_errors("backlogs"):
        counts = (layout.counts_key(s.tp.topic) for s in streams)
        partitions = (s.tp.partition for s in streams)
        keys = (*(s.key for s in streams), *counts)
        (seconds, micros), *found = await client.eval(
            _SCRIPT, len(keys), *keys, group, external, _COUNT_MAX, *partitions
        )
    at_s = int(seconds) + int(micros) / 1e6
    by_stream = {s: _backlog(answer, at_s) for s, answer in zip(streams, found, strict=True)}
    return Backlogs(at_s, by_stream)


def _backlog(answer: list[Any], at_s: float) -> Backlog:
    unread, pending, *oldest = answer[:4]
    ages = [at_s - int(i.partition(b"-")[0]) / 1000 for i in oldest if i]
    unread, pending = _messages(int(unread), int(pending), int(answer[5]))
    return Backlog(unread, pending, max(0.0, *ages) if ages else None)


def _messages(unread: int, pending: int, counted: int) -> tuple[int, int]:
    """Return how many messages are in so many entries, where they are `counted` together.

    How many are in those that were read, and how many in the others, nobody counts: where there
    are both, an entry stands for as many here as there.
    """
    entries = unread + pending
    if counted <= entries:  # one each, or not counted at all
        return unread, pending
    of_pending = min(max(round(counted * pending / entries), pending), counted - unread)
    return counted - of_pending, of_pending
