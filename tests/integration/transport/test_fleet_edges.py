"""The fleet where it is least comfortable: at the moment of leaving, and with odd company."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
import pytest

from streams.transport import Entry

from .lab import EXPLICIT, Lab
from .waiting import eventually


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_beat_behind_the_farewell_leaves_no_ghost(lab: Lab, steps: int) -> None:
    """The others would leave its share to it for the length of a lease."""
    app = lab.app(lease_s=20, block_ms=20_000)
    app.collect(app.stream_topic("t", partitions=2))
    await lab.start_and_own(app)
    coordinator = app.redis_consumer._coordinator
    leaving = asyncio.create_task(coordinator.leave())
    for _ in range(steps):
        await asyncio.sleep(0)
    await asyncio.gather(leaving, coordinator._look())
    assert await lab.redis.keys(lab.name("fleet:*")) == []


@pytest.mark.parametrize("said", [b"", b"\xff", b"null", b"[]", b"{}", b'{"worker":1}'])
async def test_a_member_that_says_nonsense_is_outlived(lab: Lab, said: bytes) -> None:
    await lab.redis.hset(lab.name("fleet:members"), "odd", said)
    await lab.redis.hset(lab.name("fleet:beats"), "odd", 1)
    await lab.redis.hset(lab.name("fleet:owners"), "t:0", "odd")
    app = lab.app(lease_s=0.4)
    received = app.collect(app.stream_topic("t"))
    await lab.start(app)
    await lab.add(lab.key("t"), b"0")
    assert await received.until(1) == [b"0"]
    assert not app.crashed


async def test_a_stream_that_is_deleted_costs_no_other_an_acknowledgement(lab: Lab) -> None:
    app = lab.app(trim_interval_s=0.0)
    busy = app.stream_topic("busy", EXPLICIT)
    done: list[Entry] = []

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for entries in stream:
            for entry in entries:
                await asyncio.sleep(0)
                app.redis_consumer.settle([entry])
                done.append(entry)

    app.agent(busy, name="busy")(agent)
    other = app.collect(app.stream_topic("other"), name="other")
    await lab.start_and_own(app)
    for n in range(1, 11):
        await lab.add(lab.key("other"), b"%d" % n)
        await other.until(n)
        await lab.add(lab.key("busy"), *[b"v"] * 200)
        await lab.redis.delete(lab.key("other"))
        await eventually(lambda: lab.redis.exists(lab.key("other")), what="the stream again")
        await eventually(lambda n=n: len(done) >= 200 * n, what="all settled")  # type: ignore[misc]
    await lab.settled(lab.key("busy"))
    ledger = app.redis_consumer.ledger
    assert not any(partition.unacknowledged for partition in ledger._partitions.values())
