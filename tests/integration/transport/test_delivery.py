"""What is sent arrives: whole, in order, in the partition of its key, at every agent."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from time import time
from typing import Any

import pytest

from streams.transport import partition_of

from .lab import Lab
from .waiting import Received, eventually

SENDER = """
import asyncio, faust, sys
from faust.types import TP
url, app_id, *keys = sys.argv[1:]
app = faust.App(app_id, broker=url)
async def main():
    topic = app.topic("t", value_serializer="raw", key_serializer="raw")
    for key in keys:
        await (await topic.send(key=key.encode(), value=b"other"))
    await app.producer.stop()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"k", b"v", {"a": b"1", "b": b""}),
        (b"k", None, {}),
        (None, b"v", {}),
        (b"", b"", {}),
        (None, None, {}),
        (None, None, {"a": b"\x00\xff"}),
        (b"\x00\xff", b"\x00\xff" * 100_000, {"ü": b"x"}),
    ],
)
async def test_a_message_arrives_with_its_key_value_and_headers(
    lab: Lab, key: bytes | None, value: bytes | None, headers: dict[str, bytes]
) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    received = app.collect_events(topic)
    await lab.start(app)
    await lab.send(topic, key=key, value=value, headers=headers)
    (event,) = await received.until(1)
    assert (event.key, event.value, event.headers) == (key, value, headers)


async def test_headers_may_be_pairs(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    received = app.collect_events(topic)
    await lab.start(app)
    await lab.send(topic, value=b"v", headers=[("a", b"1"), ("b", b"2")])
    (event,) = await received.until(1)
    assert event.headers == {"a": b"1", "b": b"2"}


async def test_the_timestamp_is_when_redis_took_the_message_in(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    received = app.collect_events(topic)
    await lab.start(app)
    began = time()
    metadata = await lab.send(topic, value=b"v")
    (event,) = await received.until(1)
    assert event.message.timestamp == (metadata.offset >> 20) / 1000  # what the entry's id says
    assert began - 0.01 <= event.message.timestamp <= time() + 0.01


async def test_order_per_partition_is_kept_and_a_key_has_one_partition(lab: Lab) -> None:
    app = lab.app(fetch_count=7, prefetch_entries=20, settings={"stream_buffer_maxsize": 3})
    topic = app.stream_topic("t", partitions=4)
    received = app.collect_events(topic)
    await lab.start(app)
    sent: dict[bytes, list[int]] = {}
    for n in range(300):
        key = b"key-%d" % random.Random(n).randrange(10)
        await topic.send(key=key, value=b"%d" % n)
        sent.setdefault(key, []).append(n)
    arrived: dict[Any, list[int]] = {}
    places: dict[Any, set[int]] = {}
    for event in await received.until(300):
        arrived.setdefault(event.key, []).append(int(event.value))
        places.setdefault(event.key, set()).add(event.message.partition)
    assert arrived == sent
    assert places == {key: {partition_of(key, 4)} for key in sent}
    assert len({place for (place,) in places.values()}) > 1


async def test_another_process_puts_a_key_into_the_same_partition(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", partitions=16)
    received = app.collect_events(topic)
    await lab.start(app)
    keys = [f"key-{n}" for n in range(8)]
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SENDER, lab.url, lab.app_id, *keys
    )
    for key in keys:
        await lab.send(topic, key=key.encode(), value=b"here")
    assert await other.wait() == 0
    places: dict[Any, set[int]] = {}
    for event in await received.until(16):
        places.setdefault(event.key, set()).add(event.message.partition)
    assert [len(places[key.encode()]) for key in keys] == [1] * 8


async def test_messages_without_a_key_take_the_partitions_in_turn(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", partitions=3)
    received = app.collect_events(topic)
    await lab.start(app)
    places = [await lab.send(topic, value=b"%d" % n) for n in range(9)]
    assert Counter(place.partition for place in places) == {0: 3, 1: 3, 2: 3}
    arrived = Counter(event.message.partition for event in await received.until(9))
    assert arrived == {0: 3, 1: 3, 2: 3}


async def test_a_partition_that_was_asked_for_is_taken(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", partitions=3)
    received = app.collect_events(topic)
    await lab.start(app)
    assert (await lab.send(topic, key=b"k", value=b"v", partition=2)).partition == 2
    (event,) = await received.until(1)
    assert event.message.partition == 2


async def test_the_metadata_of_what_was_sent_is_in_the_order_of_the_stream(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    app.collect(topic)
    await lab.start(app)
    sent = [await topic.send(value=b"%d" % n) for n in range(50)]
    offsets = [metadata.offset for metadata in await asyncio.gather(*sent)]
    assert sorted(set(offsets)) == offsets


async def test_every_agent_of_a_topic_gets_every_message(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    agents = [app.collect(topic, name=f"agent-{n}") for n in range(3)]
    await lab.start(app)
    for n in range(20):
        await topic.send(value=b"%d" % n)
    for received in agents:
        assert await received.until(20) == [b"%d" % n for n in range(20)]
    await lab.settled(lab.key("t"))


async def test_many_topics_at_once(lab: Lab) -> None:
    app = lab.app()
    topics = [app.stream_topic(f"t{n}", partitions=2) for n in range(5)]
    agents = [app.collect(topic, name=topic.get_topic_name()) for topic in topics]
    await lab.start(app)
    for n in range(10):
        for topic in topics:
            await topic.send(value=b"%d" % n)
    for received in agents:
        assert sorted(await received.until(10)) == [b"%d" % n for n in range(10)]


async def test_what_is_sent_soon_is_sent_and_its_future_says_where(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    received = app.collect(topic)
    await lab.start(app)
    future = topic.send_soon(value=b"soon", key=b"k")
    assert await received.until(1) == [b"soon"]
    assert (await future).topic == "t"


async def test_an_agent_on_a_channel_gets_what_is_put_there(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    channel = app.channel(maxsize=1)
    received = app.collect(channel, name="on-channel")

    async def forward(stream: Any) -> None:
        async for value in stream:
            await channel.send(value=value)

    app.agent(topic)(forward)
    await lab.start(app)
    for n in range(5):
        await topic.send(value=b"%d" % n)
    assert await received.until(5) == [b"%d" % n for n in range(5)]
    await lab.settled(lab.key("t"))


async def test_sensors_see_every_message_come_and_go(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    received: Received[Any] = app.collect(topic)
    await lab.start(app)
    for n in range(3):
        await topic.send(value=b"%d" % n)
    await received.until(3)
    await lab.settled(lab.key("t"))
    assert app.monitor.messages_received_total == 3
    assert app.monitor.messages_received_by_topic["t"] == 3
    await eventually(lambda: app.monitor.messages_active == 0, what="no message active")
    assert app.monitor.messages_sent == 3
