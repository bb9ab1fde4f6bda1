"""What the checks need to know of Redis, asked once; nothing is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio
import redis.exceptions

from config.settings import Settings
from streams.doctor.redis_rights import missing_rights
from streams.figures.backlog import Backlog, read_backlogs
from streams.figures.fleet import read_figures
from streams.recorded_topics import RecordedTopics, read_recorded_topics
from streams.transport import BrokerRefusedError, broker_errors

__all__ = ["RedisFacts", "SourceFacts", "read_redis_facts"]

_RATE_OVER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The producer's stream."""

    #: What the key holds; ``none``: there is no such key.
    kind: str
    length: int = 0
    #: Entries that were ever added; less the length, those that were trimmed. None: not told.
    added: int | None = None
    per_s: float = 0.0
    #: XINFO of the group; None: there is none.
    group: Mapping[str, Any] | None = None
    consumers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """Redis at one moment."""

    info: Mapping[str, Any]
    #: None: the server, or its provider, lets nobody read it.
    config: Mapping[str, str] | None
    #: Redis' clock minus this machine's, and how wrong that may be.
    clock_offset_s: float
    clock_error_s: float
    source: SourceFacts
    topics: RecordedTopics
    #: Partitions by topic, as the workers have recorded them.
    recorded: Mapping[str, int]
    backlogs: Mapping[str, Backlog]
    #: Names of the workers that tell figures.
    workers: tuple[str, ...]
    #: Commands that this user may not run; None: cannot be asked.
    missing_rights: tuple[str, ...] | None


async def read_redis_facts(client: redis.asyncio.Redis, settings: Settings) -> RedisFacts:
    """Ask; takes a second, over which the producer's rate is measured.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("INFO"):
        info: dict[str, Any] = await client.info()
    topics = await read_recorded_topics(client, settings)
    source = await _read_source(client, settings)
    offset_s, error_s, now_s = await _clock(client)
    is_readable = source.kind in ("none", "stream")
    names = topics.names if is_readable else topics.names[1:]
    found = await read_backlogs(client, topics.layout, names, group=settings.app_id)
    with broker_errors("HGETALL"):
        recorded: dict[Any, Any] = await client.hgetall(topics.layout.name("topics"))
    told = await read_figures(client, topics.layout, now_s=now_s)
    return RedisFacts(
        info=info,
        config=await _config(client),
        clock_offset_s=offset_s,
        clock_error_s=error_s,
        source=source,
        topics=topics,
        recorded={
            name.decode("utf-8", "replace"): int(number)
            for name, number in recorded.items()
            if number.isdigit()
        },
        backlogs={name: found.of(name) for name in names},
        workers=tuple(str(said["worker"]) for said in told),
        missing_rights=await missing_rights(client, settings),
    )


async def _config(client: redis.asyncio.Redis) -> dict[str, str] | None:
    try:
        with broker_errors("CONFIG GET"):
            found: Any = await client.config_get("*")
    except BrokerRefusedError:
        return None
    return {str(name): str(value) for name, value in found.items()}


async def _clock(client: redis.asyncio.Redis) -> tuple[float, float, float]:
    before_s = time.time()
    with broker_errors("TIME"):
        seconds, micros = await client.time()
    after_s = time.time()
    server_s = seconds + micros / 1e6
    return server_s - (before_s + after_s) / 2, (after_s - before_s) / 2, server_s


async def _read_source(client: redis.asyncio.Redis, settings: Settings) -> SourceFacts:
    key = settings.source_stream
    with broker_errors("TYPE"):
        raw: Any = await client.type(key)
    kind = raw.decode()
    if kind != "stream":
        return SourceFacts(kind)
    with broker_errors("XINFO STREAM"):
        before: dict[str, Any] = await client.xinfo_stream(key)
        await asyncio.sleep(_RATE_OVER_S)
        after: dict[str, Any] = await client.xinfo_stream(key)
        groups = await client.xinfo_groups(key)
    group = next((g for g in groups if g["name"] == settings.app_id.encode()), None)
    consumers: list[dict[str, Any]] = []
    if group is not None:
        with broker_errors("XINFO CONSUMERS"):
            consumers = await client.xinfo_consumers(key, settings.app_id)
    # Told from Redis 7 on; before, a full stream does not grow and shows no rate.
    counts = [about.get("entries-added", about["length"]) for about in (before, after)]
    return SourceFacts(
        kind,
        length=int(after["length"]),
        added=after.get("entries-added"),
        per_s=max(int(counts[1]) - int(counts[0]), 0) / _RATE_OVER_S,
        group=group,
        consumers=tuple(consumers),
    )
