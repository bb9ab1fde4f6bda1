"""How far behind each partition is, and who reads it; no worker is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis.asyncio

from config.settings import Settings
from streams.figures.backlog import Backlog, read_backlogs
from streams.figures.fleet import read_figures
from streams.recorded_topics import read_recorded_topics
from streams.transport.fleet import read_owners

__all__ = ["Lag", "PartitionLag", "read_lag"]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition of one topic."""

    topic: str
    partition: int
    backlog: Backlog
    #: Name of the worker that reads it; None: nobody does.
    owner: str | None
    #: Whether that worker has told no figures lately: it may be dead and not yet replaced.
    is_owner_silent: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``lag --json`` prints."""
        return {
            "partition": self.partition,
            **_figures(self.backlog),
            "owner": self.owner,
            "owner_silent": self.is_owner_silent,
        }


@dataclass(frozen=True, slots=True)
class Lag:
    """All partitions at one moment, in the order of the flow."""

    #: Seconds since the epoch, by Redis' clock.
    at_s: float
    partitions: tuple[PartitionLag, ...]

    @property
    def total(self) -> Backlog:
        """All that is left to do anywhere."""
        return sum((part.backlog for part in self.partitions), Backlog())

    def by_topic(self) -> dict[str, tuple[PartitionLag, ...]]:
        """The partitions of each topic, in the order of the flow."""
        topics: dict[str, tuple[PartitionLag, ...]] = {}
        for part in self.partitions:
            topics[part.topic] = (*topics.get(part.topic, ()), part)
        return topics

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``lag --json`` prints."""
        return {
            "version": 1,
            "at_s": round(self.at_s, 3),
            "total": _figures(self.total),
            "streams": [
                {
                    "stream": topic,
                    **_figures(sum((part.backlog for part in parts), Backlog())),
                    "partitions": [part.as_dict() for part in parts],
                }
                for topic, parts in self.by_topic().items()
            ],
        }


def _figures(backlog: Backlog) -> dict[str, Any]:
    age_s = backlog.oldest_age_s
    return {
        "entries": backlog.entries,
        "unread": backlog.unread,
        "pending": backlog.pending,
        "oldest_age_s": None if age_s is None else round(age_s, 3),
    }


async def read_lag(client: redis.asyncio.Redis, settings: Settings) -> Lag:
    """Read the lag of all topics that there are, also of sinks that are no longer configured.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    topics = await read_recorded_topics(client, settings)
    backlogs = await read_backlogs(client, topics.layout, topics.names, group=settings.app_id)
    owners = await read_owners(client, topics.layout)
    told = await read_figures(client, topics.layout, now_s=backlogs.at_s)
    heard = {str(said["worker"]) for said in told}
    partitions = []
    for stream in topics.layout.all_streams(topics.names):
        owner = owners.get(f"{stream.tp.topic}:{stream.tp.partition}")
        partitions.append(
            PartitionLag(
                stream.tp.topic,
                stream.tp.partition,
                backlogs.by_stream[stream],
                owner,
                is_owner_silent=owner is not None and owner not in heard,
            )
        )
    return Lag(backlogs.at_s, tuple(partitions))
