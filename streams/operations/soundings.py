"""What metrics, health and scaling ask Redis and Postgres, over connections of their own.

Their own, since those of the stages may all be in use, for as long as a lock is held or a server
is silent, and how the server is must be known just then.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import faust
import redis.asyncio

from streams.broker_url import broker_url
from streams.dead_letters.retention import COUNT_OPEN
from streams.figures.backlog import Backlogs, read_backlogs
from streams.figures.fleet import read_figures
from streams.operations.sounding import Sounding
from streams.postgres import Postgres
from streams.transport import broker_errors
from streams.transport.connection import connect
from streams.transport.errors import BrokerRefusedError
from streams.transport.fleet import read_owners

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["FleetSeen", "Kept", "Soundings", "Waiting"]

_DEADLINE_S: Final = 2.0
#: At most one small ask a second of each server, by probes.
_PROBE_EVERY_S: Final = 1.0
#: Backlogs and counts cost more, and change slowly.
_LOOK_EVERY_S: Final = 3.0

_IS_WRITABLE: Final = "select current_setting('transaction_read_only') = 'off'"
_KEPT: Final = f"""
select ({COUNT_OPEN}), (select count(*) from capsule_reconciler.gaps where closed_at is null)
"""  # noqa: S608 - of constants alone


@dataclass(frozen=True, slots=True)
class FleetSeen:
    """What a probe needs to know of Redis."""

    #: Whether the consumer group is on the producer's stream.
    has_group: bool
    #: Partitions (``<topic>:<number>``) that no live worker reads.
    unowned: frozenset[str]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is left to do, and what the workers say that they wait for."""

    backlogs: Backlogs
    #: What each worker says of itself (:mod:`streams.figures.fleet`).
    workers: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What Postgres keeps for somebody to deal with."""

    dead_letters: int
    gaps: int


class Soundings:
    """All that is asked on behalf of those who look at one worker from outside."""

    def __init__(self, app: ReconcilerApp) -> None:
        self._app = app
        self._group = app.settings.app_id
        self._topics = [topic.get_topic_name() for topic in app.reconciler.topics.all()]
        self._client: redis.asyncio.Redis | None = None
        self._postgres: Postgres | None = None
        self.fleet = Sounding(self._ask_fleet, every_s=_PROBE_EVERY_S, deadline_s=_DEADLINE_S)
        self.waiting = Sounding(self._ask_waiting, every_s=_LOOK_EVERY_S, deadline_s=_DEADLINE_S)
        self.writable = Sounding(self._ask_postgres, every_s=_PROBE_EVERY_S, deadline_s=_DEADLINE_S)
        self.kept = Sounding(self._ask_kept, every_s=_LOOK_EVERY_S, deadline_s=_DEADLINE_S)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have connections to ask over; they are made when they are first needed."""
        settings = self._app.settings
        client = connect(
            broker_url(settings), timeout_s=_DEADLINE_S, name=f"{settings.app_id}-probe"
        )
        # Two connections: a count that takes long must not make Postgres look silent.
        postgres = Postgres(
            settings.database_url,
            pool_size=2,
            connect_timeout_s=_DEADLINE_S,
            statement_timeout_ms=int(_DEADLINE_S * 1000),
            lock_timeout_ms=int(_DEADLINE_S * 1000),
        )
        await postgres.open()
        self._client, self._postgres = client, postgres
        try:
            yield
        finally:
            for sounding in (self.fleet, self.waiting, self.writable, self.kept):
                await sounding.close()
            self._client = self._postgres = None
            await postgres.close()
            await client.aclose()

    async def keep(self, app: faust.App) -> None:
        """Have them until `app` stops; a Faust task."""
        async with self.connected():
            while not app.should_stop:
                await app.sleep(1.0)

    @property
    def is_connected(self) -> bool:
        """Whether anything can be asked: from when the app has started until it stops."""
        return self._client is not None

    @property
    def _redis(self) -> redis.asyncio.Redis:
        assert self._client is not None  # noqa: S101 - `is_connected` was looked at
        return self._client

    async def _ask_fleet(self) -> FleetSeen:
        layout = self._app.redis_layout
        source = self._app.settings.source_stream
        try:
            with broker_errors("XINFO GROUPS"):
                groups = await self._redis.xinfo_groups(source)
        except BrokerRefusedError as exc:
            if "no such key" not in str(exc):
                raise
            groups = []
        owners = await read_owners(self._redis, layout)
        partitions = {f"{s.tp.topic}:{s.tp.partition}" for s in layout.all_streams(self._topics)}
        return FleetSeen(
            any(group["name"] == self._group.encode() for group in groups),
            frozenset(partitions - owners.keys()),
        )

    async def _ask_waiting(self) -> Waiting:
        layout = self._app.redis_layout
        backlogs = await read_backlogs(self._redis, layout, self._topics, group=self._group)
        workers = await read_figures(self._redis, layout, now_s=backlogs.at_s)
        return Waiting(backlogs, workers)

    async def _ask_postgres(self) -> bool:
        (is_writable,) = await self._fetch(_IS_WRITABLE)
        return bool(is_writable)

    async def _ask_kept(self) -> Kept:
        dead_letters, gaps = await self._fetch(_KEPT)
        return Kept(int(dead_letters), int(gaps))

    async def _fetch(self, statement: str) -> tuple[Any, ...]:
        assert self._postgres is not None  # noqa: S101 - `is_connected` was looked at
        return await self._postgres.fetch_row(statement, {})
