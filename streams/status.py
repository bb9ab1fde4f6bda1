"""Figures about the work as it stands, read from Redis and Postgres; no worker is asked.

What waits in the producer's stream is counted from the group's position on: Redis' own ``lag``
is wrong for good once the producer has trimmed what nobody had read. Our own streams are never
trimmed past the group, so there it is right.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
import redis.asyncio

from streams.errors import DatabaseUnavailableError
from streams.topics import Topics
from streams.transport import (
    BrokerRefusedError,
    Stream,
    StreamLayout,
    broker_errors,
    read_workers,
)

__all__ = ["StageStatus", "Status", "read_status"]

#: XRANGE steps of this many entries count a backlog; a count stops at the second figure.
_COUNT_STEP = 1_000
_COUNT_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One topic: entries nobody has read yet, and entries read and not acknowledged."""

    stream: str
    waiting: int
    pending: int


@dataclass(frozen=True, slots=True)
class Status:
    """All figures."""

    sandboxes: dict[str, int]
    audit_rows: int
    stages: list[StageStatus]
    dead_letters: int
    #: How many partitions each worker reads, by its name.
    workers: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``status --json`` prints."""
        return asdict(self)

    @property
    def backlog(self) -> int:
        """Entries that are not done with, over all stages."""
        return sum(stage.waiting + stage.pending for stage in self.stages)


async def read_status(
    client: redis.asyncio.Redis,
    database_url: str,
    topics: Topics,
    layout: StreamLayout,
    *,
    group: str,
) -> Status:
    """Read the figures once.

    Raises:
        TransportError: Redis is unreachable or refuses.
        DatabaseUnavailableError: so is Postgres.
    """
    stages = []
    for topic in (topics.source, topics.capsules, *topics.hooks.values()):
        name = topic.get_topic_name()
        waiting = pending = 0
        for stream in layout.streams(name):
            ahead, in_hand = await _backlog(client, stream, group)
            waiting += ahead
            pending += in_hand
        stages.append(StageStatus(name, waiting, pending))
    dead = layout.streams(topics.dead_letters.get_topic_name())[0]
    with broker_errors("XLEN"):
        dead_letters = int(await client.xlen(dead.key))
    workers = await read_workers(client, layout)
    sandboxes, audit_rows = _count_rows(database_url)
    return Status(sandboxes, audit_rows, stages, dead_letters, workers)


async def _backlog(client: redis.asyncio.Redis, stream: Stream, group: str) -> tuple[int, int]:
    """Return how many entries of a stream are unread, and how many read and pending."""
    try:
        with broker_errors("XINFO GROUPS"):
            groups = await client.xinfo_groups(stream.key)
    except BrokerRefusedError as exc:
        if "no such key" in str(exc):
            return 0, 0
        raise
    for info in groups:
        if info["name"] == group.encode():
            lag = info["lag"] if stream.is_ours else None
            if lag is None:
                lag = await _count_after(client, stream.key, info["last-delivered-id"])
            return int(lag), int(info["pending"])
    with broker_errors("XLEN"):
        return int(await client.xlen(stream.key)), 0


async def _count_after(client: redis.asyncio.Redis, key: bytes, entry_id: bytes) -> int:
    counted = 0
    with broker_errors("XRANGE"):
        while counted < _COUNT_MAX:
            page: list[Any] = await client.execute_command(
                "XRANGE", key, b"(" + entry_id, b"+", "COUNT", _COUNT_STEP
            )
            counted += len(page)
            if len(page) < _COUNT_STEP:
                break
            entry_id = page[-1][0]
    return counted


def _count_rows(database_url: str) -> tuple[dict[str, int], int]:
    try:
        connection = psycopg2.connect(database_url, connect_timeout=5)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("select status, count(*) from sandboxes group by 1 order by 1")
                sandboxes = {str(name): int(count) for name, count in cursor.fetchall()}
                cursor.execute("select count(*) from audit_logs")
                (audit_rows,) = cursor.fetchone() or (0,)
        finally:
            connection.close()
    except psycopg2.Error as exc:
        raise DatabaseUnavailableError(str(exc).partition("\n")[0]) from exc
    return sandboxes, int(audit_rows)
