"""Which sinks are paused, kept in Redis: for the whole fleet, and over restarts.

A hash with a field for each paused sink: since when, in seconds since the epoch by Redis' clock.
"""

from __future__ import annotations

from typing import Any, Final

import redis.asyncio

from streams.transport import StreamLayout, broker_errors

__all__ = ["pause_sink", "read_pauses", "resume_sink"]

_KEY: Final = "paused-sinks"


async def read_pauses(client: redis.asyncio.Redis, layout: StreamLayout) -> dict[str, float]:
    """Return since when each sink is paused that is.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("HGETALL"):
        found: dict[Any, Any] = await client.hgetall(layout.name(_KEY))
    return {name.decode(): _seconds(at) for name, at in found.items()}


async def pause_sink(client: redis.asyncio.Redis, layout: StreamLayout, name: str) -> bool:
    """Pause a sink; False: it was paused already, and since then.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("TIME"):
        seconds, _ = await client.time()
    with broker_errors("HSETNX"):
        return bool(await client.hsetnx(layout.name(_KEY), name, str(seconds)))


async def resume_sink(client: redis.asyncio.Redis, layout: StreamLayout, name: str) -> bool:
    """Let deliveries to a sink go on; False: it was not paused.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("HDEL"):
        return bool(await client.hdel(layout.name(_KEY), name))


def _seconds(raw: bytes) -> float:
    """Read the time; whoever wrote something else has paused the sink all the same."""
    try:
        return float(raw)
    except ValueError:
        return 0.0
