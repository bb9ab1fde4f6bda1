"""Restarts leave nothing behind in Redis: no names, no keys, no memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.transport.lab import EXPLICIT, Lab
from tests.integration.transport.waiting import eventually

#: What is measured here is measured on a machine that does nothing else.
pytestmark = pytest.mark.alone

RESTARTS = 200
#: What Redis' own bookkeeping may differ by, between two looks.
MEMORY_SLACK_BYTES = 256 * 1024


@pytest.fixture
async def lab(redis_url: str) -> AsyncIterator[Lab]:
    async with Lab(redis_url, "restarts") as lab:
        yield lab


async def left_behind(lab: Lab) -> tuple[list[Any], int, int]:
    """Keys, consumer names and memory."""
    keys: list[Any] = sorted(await lab.redis.keys("*"))
    names = 0
    for key in keys:
        if await lab.redis.type(key) == b"stream":
            for group in await lab.redis.xinfo_groups(key):
                names += len(await lab.redis.xinfo_consumers(key, group["name"]))
    memory = (await lab.redis.info("memory"))["used_memory_dataset"]
    return keys, names, int(memory)


async def live_once(lab: Lab, *, kill: bool) -> None:
    """Start a worker, have it do something, and end it."""
    app = lab.app(lease_s=20)
    topic = app.stream_topic("t", EXPLICIT, partitions=4)
    received = app.collect(topic)
    await lab.start_and_own(app)
    await lab.add(lab.key("t"), b"0")
    (batch, *_) = await received.until(1)
    app.redis_consumer.settle(batch)
    await lab.settled(lab.key("t"))
    await (lab.crash(app) if kill else lab.stop(app))


@pytest.mark.timeout(300)
async def test_200_restarts_leave_no_more_behind_than_one(lab: Lab) -> None:
    await live_once(lab, kill=False)
    keys, names, memory = await left_behind(lab)
    assert names == 0
    for turn in range(RESTARTS):
        await live_once(lab, kill=turn % 5 == 0)
    await live_once(lab, kill=False)  # the last one finds no dead
    await eventually(lambda: _trimmed(lab), what="the trimming")
    keys_after, names_after, memory_after = await left_behind(lab)
    assert keys_after == keys
    assert names_after == names
    assert memory_after - memory < MEMORY_SLACK_BYTES


async def _trimmed(lab: Lab) -> bool:
    return not any([await lab.redis.xlen(lab.key("t", n)) for n in range(4)])
