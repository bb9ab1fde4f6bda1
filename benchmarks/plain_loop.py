"""A contender: the practical limit of one Python process on this machine.

Read 500 entries, parse them, one statement per verb, one XACK, and again.
"""

from __future__ import annotations

from typing import Any, Final

import redis.asyncio

from benchmarks.arena import GROUP, SOURCE
from benchmarks.batch import apply_batch
from benchmarks.loop import main

READ_COUNT: Final = 500


async def consume(client: redis.asyncio.Redis, cursor: Any) -> None:
    """Read and apply until the process is ended."""
    while True:
        answer: Any = await client.xreadgroup(
            GROUP, "plain", {SOURCE: ">"}, count=READ_COUNT, block=2_000
        )
        for _, entries in answer:
            await apply_batch(cursor, [fields[b"payload"] for _, fields in entries])
            await client.xack(SOURCE, GROUP, *(entry_id for entry_id, _ in entries))


if __name__ == "__main__":
    main(consume)
