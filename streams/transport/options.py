"""The transport's settings, and what a topic may say about the stream behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from .loss import Journal

__all__ = ["CONFIG_KEY", "Settle", "StreamConfig", "TransportOptions"]

#: The name in a Faust topic's ``config`` under which a :class:`StreamConfig` stands.
CONFIG_KEY: Final = "redis"

_START_ID = re.compile(r"\$|\d+(-\d+)?")


class Settle(StrEnum):
    """Who says that an entry is done with."""

    #: Faust's own acknowledgement: when each stream that reads the message has gone past it.
    FAUST = "faust"
    #: Only `Consumer.settle`, which an agent calls once the effects are durable.
    EXPLICIT = "explicit"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """What a topic says about its streams: ``app.topic(..., config=StreamConfig(...).topic())``."""

    #: The full key of a stream that somebody else writes; it is read as one partition and
    #: never trimmed. ``None``: the stream is ours, and trimmed behind what is acknowledged.
    external_key: str | None = None
    #: Where a new consumer group starts: ``$`` (only what comes from now on), ``0`` or an id.
    start_id: str = "0"
    #: Give agents lists of :class:`Entry`, all of one partition, in place of one message each.
    batch: bool = False
    settle: Settle = Settle.FAUST
    #: Messages that are sent together may share an entry, so many of them at most.
    bundle_max: int = 1
    #: Of a stream that somebody else writes: how long entries that another consumer name holds
    #: must be idle before they are claimed.
    claim_idle_ms: int = 60_000
    #: ``(topic, n)``: to read a partition of this one is as much work as to read `n` of that
    #: topic, so whoever does is given so many fewer of those. ``None``: it counts as itself.
    counts_as: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        if not _START_ID.fullmatch(self.start_id):
            raise ValueError(f"start_id: {self.start_id!r} is not '$', '0' or an entry id")
        if self.settle is Settle.EXPLICIT and not self.batch:
            raise ValueError("settle: only an agent that is given entries can settle them")
        if self.is_bundled and (self.external_key is not None or not self.batch):
            raise ValueError(
                "bundle_max: only for a topic of ours, to an agent that is given entries"
            )
        if self.counts_as is not None and self.counts_as[1] < 1:
            raise ValueError(f"counts_as: {self.counts_as[1]} partitions are less than one")

    @property
    def is_bundled(self) -> bool:
        """Whether messages may share an entry."""
        return self.bundle_max > 1

    def topic(self) -> Mapping[str, Any]:
        """Return the ``config`` argument for :meth:`faust.App.topic`."""
        return {CONFIG_KEY: self}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """Settings of the transport; an app carries its own as the attribute ``redis_options``."""

    #: The URL to connect to, where the app's ``broker`` is not to show its password.
    url: str | None = field(default=None, repr=False)
    #: What each key of the app starts with; ``None``: ``{<app id>}:``. The braces put all keys
    #: of one app into one slot of a Redis Cluster.
    key_prefix: str | None = None
    #: The name of this worker in leases and logs; ``None``: host name and process id.
    worker_name: str | None = None
    #: Entries asked for per partition and read.
    fetch_count: int = 1_000
    #: Entries per partition that are delivered and not settled, at most.
    prefetch_entries: int = 2_000
    #: How long a steady flow gathers before it is read from somebody else's stream. What comes
    #: after a pause does not wait.
    gather_ms: float = 8.0
    #: The same of what is done with, before it is acknowledged: nobody waits for that, but a
    #: successor goes through once more what is not.
    ack_gather_ms: float = 32.0
    #: How long one read waits in Redis for new entries.
    block_ms: int = 2_000
    #: How long any answer of Redis may take, beyond `block_ms`.
    timeout_s: float = 5.0
    lease_s: float = 10.0
    #: How long a leaving worker waits for what it has started.
    drain_timeout_s: float = 20.0
    #: How often the pending entries are compared with what this worker has in hand.
    sweep_s: float = 30.0
    #: How often what was read of somebody else's stream is compared with what was added to it.
    check_interval_s: float = 1.0
    #: How often a stream is trimmed behind what is acknowledged.
    trim_interval_s: float = 1.0
    #: Shortest and longest pause between attempts to reach Redis.
    backoff_min_s: float = 0.05
    backoff_max_s: float = 2.0
    #: Where losses are kept; None: they are said in the log, and a group that was lost while no
    #: worker ran passes for one that never was.
    journal: Journal | None = None

    def __post_init__(self) -> None:
        if self.prefetch_entries < self.fetch_count:
            raise ValueError(
                f"prefetch_entries: {self.prefetch_entries} is less than"
                f" fetch_count {self.fetch_count}"
            )
