"""What the contenders that are plain programs have in common: a process, and the word `ready`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import aiopg
import redis.asyncio

__all__ = ["Consume", "capsule_uuid", "main", "say_ready"]

Consume = Callable[[redis.asyncio.Redis, Any], Awaitable[None]]


def main(consume: Consume) -> None:
    """Run `consume` on the servers whose URLs the command line has: Redis, then Postgres."""
    asyncio.run(_run(consume, *sys.argv[1:]))


async def _run(consume: Consume, redis_url: str, database_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    await client.ping()
    async with aiopg.connect(database_url) as connection, connection.cursor() as cursor:
        await cursor.execute("select 1")
        say_ready()
        await consume(client, cursor)


def say_ready() -> None:
    """Tell the parent that everything is connected, and since when."""
    print(time.time(), flush=True)


def capsule_uuid(text: str) -> str:
    """Return the UUID in a textual id, unchecked."""
    return str(UUID(int=int(text.partition("-")[2], 36)))
