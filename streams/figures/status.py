"""Figures about the work as it stands, read from Redis and Postgres; no worker is asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
import redis.asyncio

from streams.dead_letters.retention import COUNT_OPEN
from streams.errors import DatabaseUnavailableError
from streams.figures.backlog import read_backlogs
from streams.topics import Topics
from streams.transport import StreamLayout, read_workers

__all__ = ["StageStatus", "Status", "read_status"]


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
    #: Those that nobody has dealt with.
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
    names = [topic.get_topic_name() for topic in topics.all()]
    backlogs = await read_backlogs(client, layout, names, group=group)
    stages = [
        StageStatus(name, backlog.unread, backlog.pending)
        for name, backlog in ((name, backlogs.of(name)) for name in names)
    ]
    workers = await read_workers(client, layout)
    sandboxes, audit_rows, dead_letters = _count_rows(database_url)
    return Status(sandboxes, audit_rows, stages, dead_letters, workers)


def _count_rows(database_url: str) -> tuple[dict[str, int], int, int]:
    try:
        connection = psycopg2.connect(database_url, connect_timeout=5)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("select status, count(*) from sandboxes group by 1 order by 1")
                sandboxes = {str(name): int(count) for name, count in cursor.fetchall()}
                cursor.execute("select count(*) from audit_logs")
                (audit_rows,) = cursor.fetchone() or (0,)
                cursor.execute(COUNT_OPEN)
                (dead_letters,) = cursor.fetchone() or (0,)
        finally:
            connection.close()
    except psycopg2.Error as exc:
        raise DatabaseUnavailableError(str(exc).partition("\n")[0]) from exc
    return sandboxes, int(audit_rows), int(dead_letters)
