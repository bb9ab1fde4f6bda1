"""A contender: FastStream's Redis stream subscriber in batch mode, with the plain loop's SQL.

With ``in-order`` as its third argument each capsule's events are applied one after the other, as
somebody would have to who wants the right rows. FastStream is a dependency of development only;
where it is not installed the table says so.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import sys
from typing import Any

import aiopg

from benchmarks.arena import GROUP, SOURCE
from benchmarks.batch import apply_batch, apply_in_order
from benchmarks.loop import say_ready
from streams.transport import TransportOptions

__all__ = ["is_installed"]


def is_installed() -> bool:
    """Whether this contender can take part."""
    return importlib.util.find_spec("faststream") is not None


async def _run(redis_url: str, database_url: str, how: str = "") -> None:
    apply_all = apply_in_order if how == "in-order" else apply_batch
    # By name: the type checker runs where it is not installed.
    faststream: Any = importlib.import_module("faststream")
    transport: Any = importlib.import_module("faststream.redis")
    broker = transport.RedisBroker(redis_url, log_level=logging.ERROR)
    async with aiopg.connect(database_url) as connection, connection.cursor() as cursor:
        await cursor.execute("select 1")

        @broker.subscriber(  # type: ignore[untyped-decorator]
            stream=transport.StreamSub(
                SOURCE,
                group=GROUP,
                consumer="faststream",
                batch=True,
                # As many as this project reads, unless told otherwise.
                max_records=TransportOptions().fetch_count,
            )
        )
        async def apply(body: list[Any]) -> None:
            await apply_all(cursor, [entry["payload"] for entry in body])

        app = faststream.FastStream(broker)
        app.on_startup(say_ready)
        await app.run(log_level=logging.ERROR)


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
