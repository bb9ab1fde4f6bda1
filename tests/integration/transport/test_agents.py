"""Agents of other kinds than one that just reads, and agents that are in trouble."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
import pytest

from .lab import EXPLICIT, Lab
from .waiting import Received, eventually


async def test_cast_sends_to_the_topic_of_the_agent(lab: Lab) -> None:
    app = lab.app(settings={"value_serializer": "json"})
    received = Received[Any]()

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for value in stream:
            received.add(value)

    casting = app.agent(app.stream_topic("t"), name="agent")(agent)
    await lab.start(app)
    await casting.cast({"n": 1})
    assert await received.until(1) == [{"n": 1}]
    await lab.settled(lab.key("t"))


async def test_agents_with_isolated_partitions_get_a_partition_each(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", partitions=3)
    seen = Received[tuple[int, int]]()

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for event in stream.events():
            seen.add((id(stream), event.message.partition))

    app.agent(topic, name="agent", isolated_partitions=True)(agent)
    await lab.start(app)
    for n in range(12):
        await topic.send(value=b"%d" % n)
    places = set(await seen.until(12))
    assert len({partition for _, partition in places}) == len(places) == 3
    for partition in range(3):
        await lab.settled(lab.key("t", partition))


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_agent_s_concurrency_shares_one_topic(lab: Lab, concurrency: int) -> None:
    app = lab.app()
    topic = app.stream_topic("t", partitions=2)
    received = app.collect(topic, concurrency=concurrency)
    await lab.start(app)
    for n in range(30):
        await topic.send(value=b"%d" % n)
    assert sorted(await received.until(30), key=int) == [b"%d" % n for n in range(30)]
    for partition in range(2):
        await lab.settled(lab.key("t", partition))


async def test_faust_s_own_topics_do_no_harm(lab: Lab) -> None:
    app = lab.app(settings={"topic_disable_leader": False})
    received = app.collect(app.stream_topic("t"))
    await lab.start(app)
    await lab.add(lab.key("t"), b"0")
    assert await received.until(1) == [b"0"]


async def test_a_stream_that_is_begun_later_is_read_and_disturbs_nothing(lab: Lab) -> None:
    """Faust subscribes anew when an app comes to read more topics."""
    app = lab.app(block_ms=20_000)
    app.topics._resubscribe_sleep_lock_seconds = 0.01  # type: ignore[attr-defined]
    gate = lab.gate()
    held = app.collect(app.stream_topic("t"), gate=gate, name="held")
    batches = app.collect(app.stream_topic("u", EXPLICIT), name="batches")
    more = app.stream_topic("more", partitions=2)
    await lab.start_and_own(app)
    await lab.add(lab.key("t"), *[b"%d" % n for n in range(10)])
    await lab.add(lab.key("u"), b"0")
    await held.until(1)
    ((entry,),) = await batches.until(1)

    late = Received[bytes]()

    async def read_more() -> None:
        async for value in app.stream(more):
            late.add(value)

    reading = asyncio.create_task(app.within(read_more()))
    await eventually(lambda: len(app.redis_consumer.assignment()) == 4, what="the partitions")
    for partition in range(2):
        await lab.send(more, value=b"%d" % partition, partition=partition)
    assert sorted(await late.until(2)) == [b"0", b"1"]

    gate.set()
    assert await held.until(10) == [b"%d" % n for n in range(10)]
    app.redis_consumer.settle([entry])
    for name in ("t", "u", "more"):
        await lab.settled(lab.key(name))
    assert (len(held.items), len(batches.items)) == (10, 1)
    assert app.consumer_generation_id == 1
    reading.cancel()


class Unreadable(faust.Codec):
    """A codec that fails in a way that Faust does not expect."""

    def _loads(self, s: bytes) -> Any:
        raise MemoryError(s)


async def test_a_delivery_that_fails_ends_the_worker_and_does_not_stall_it(lab: Lab) -> None:
    app = lab.app()
    app.collect(app.stream_topic("t", value_serializer=Unreadable()))
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0")
    await eventually(lambda: app.crashed, what="the end")
    assert isinstance(app.crash_reason, MemoryError)
    await lab.stop(app)
    assert await lab.pending(lab.key("t")) == ids
