"""Which sinks were retired of late: a worker that was frozen meanwhile may bring them back.

A hash in Redis with a field for each: since when, in seconds since the epoch by Redis' clock. A
worker that *starts* with such a sink in its settings removes the field, since it has been added
anew; one that merely wakes up does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import redis.asyncio

from streams.transport import StreamLayout, broker_errors

__all__ = ["RETIRED", "forget_retired", "read_retired"]

RETIRED: Final = "retired-sinks"
#: No worker sleeps for longer and is then let go on.
_KEEP_S: Final = 30 * 86_400


async def read_retired(client: redis.asyncio.Redis, layout: StreamLayout) -> list[str]:
    """Return the sinks that were retired, and forget those of long ago.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("HGETALL"):
        found: dict[Any, Any] = await client.hgetall(layout.name(RETIRED))
    if not found:
        return []
    with broker_errors("TIME"):
        now_s, _ = await client.time()
    at_s = {name.decode(): int(raw) if raw.isdigit() else 0 for name, raw in found.items()}
    await forget_retired(client, layout, [s for s, at in at_s.items() if at < now_s - _KEEP_S])
    return [sink for sink, at in at_s.items() if at >= now_s - _KEEP_S]


async def forget_retired(
    client: redis.asyncio.Redis, layout: StreamLayout, sinks: Iterable[str]
) -> None:
    """Let what there is of `sinks` be: they have been added anew, or were retired long ago.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    if names := list(sinks):
        with broker_errors("HDEL"):
            await client.hdel(layout.name(RETIRED).decode(), *names)
