"""Whether workers are there, for commands that need some of them, or all, to be gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

import redis.asyncio

from streams.transport import StreamLayout, broker_errors, read_members

__all__ = ["living_workers"]

_LOOK_EVERY_S: Final = 0.1


async def living_workers(
    client: redis.asyncio.Redis,
    layout: StreamLayout,
    *,
    silence_s: float,
    concerned: Callable[[frozenset[str]], bool] = lambda _: True,
) -> list[str]:
    """Return the names of workers that are there, by the first of them that gives a sign of life.

    A killed worker stays a member until another one removes it, and gives none: where no other
    worker is there, that is waited for. All that are concerned are named, though one moved only.

    Arguments:
        silence_s: after how long without a beat a worker is dead, and so is its last read.
        concerned: asked with the partitions that a worker can read (none, while it starts).

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    members = await read_members(client, layout)
    names = {token: name for token, (name, readable) in members.items() if concerned(readable)}
    if not names:
        return []
    tokens = list(names)
    beats_key = layout.name("fleet:beats").decode()
    with broker_errors("HMGET"):
        before = await client.hmget(beats_key, tokens)
        until = monotonic() + silence_s
        while monotonic() < until:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = await client.hmget(beats_key, tokens)
            if any(new is not None and new != old for old, new in zip(before, now, strict=True)):
                return sorted(names.values())
    return []
