"""What follows from a partition is appended in the name of its owner, or not at all."""

from __future__ import annotations

import faust
import pytest

from streams.transport import Entry, NotOwnedError, Record, Settle, StreamConfig

from .lab import EXPLICIT, Lab
from .waiting import Received, eventually


def records(n: int) -> list[Record]:
    return [Record(b"%d" % i, b"key", {"number": b"%d" % i}) for i in range(n)]


async def test_a_former_owner_appends_nothing(lab: Lab) -> None:
    app = lab.app(lease_s=20)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    await lab.add(lab.key("t"), b"1")
    await eventually(lambda: received.items, what="an entry")
    (entry,) = received.items[0]
    holding = app.redis_consumer.holding(entry.tp)
    await app.redis_producer.send_while(holding, "t", records(3))
    # What another worker does that takes over from a frozen one.
    await lab.redis.hset(holding.owners_key, holding.partition, b"another")
    with pytest.raises(NotOwnedError, match="another worker"):
        await app.redis_producer.send_while(holding, "t", records(3))
    await lab.redis.hdel(holding.owners_key, holding.partition)
    with pytest.raises(NotOwnedError):
        await app.redis_producer.send_while(holding, "t", records(3))
    assert (await lab.redis.xinfo_stream(lab.key("t")))["entries-added"] == 4


async def test_what_is_appended_is_what_any_other_sending_appends(lab: Lab) -> None:
    app = lab.app(lease_s=20)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT, partitions=3))
    await lab.start(app)
    keyed = [Record(b"\0\xff%d" % n, b"k%d" % n, {"h": b"%d" % n}) for n in range(1_200)]
    odd = [Record(None, b"a"), Record(b"", b"b"), Record(b"x" * 2_000_000, b"c")]
    await app.redis_producer.send_many(["t"], keyed + odd)
    await eventually(lambda: sum(map(len, received.items)) == 1_203, what="the first")
    (tp, *_) = app.redis_consumer.assignment()
    await app.redis_producer.send_while(app.redis_consumer.holding(tp), "t", keyed + odd)
    await eventually(lambda: sum(map(len, received.items)) == 2_406, what="the second")
    by_partition: dict[object, list[object]] = {}
    for entry in (entry for batch in received.items for entry in batch):
        by_partition.setdefault(entry.tp, []).append(dict(entry.fields))
    assert len(by_partition) == 3
    for found in by_partition.values():
        assert found[: len(found) // 2] == found[len(found) // 2 :]


async def test_what_others_may_trim_is_read_before_what_is_ours(lab: Lab) -> None:
    app = lab.app(fetch_count=10, prefetch_entries=1_000, lease_s=20)
    ours = app.stream_topic("ours", EXPLICIT)
    config = StreamConfig(external_key="theirs", batch=True, settle=Settle.EXPLICIT)
    theirs = app.stream_topic("theirs", config)
    order: list[str] = []

    def note(topic: faust.TopicT) -> None:
        async def agent(stream: faust.StreamT[list[Entry]]) -> None:
            async for entries in stream:
                order.extend(entry.tp.topic for entry in entries)

        app.agent(topic, name=topic.get_topic_name())(agent)

    note(ours)
    note(theirs)
    await lab.add("theirs", *[b"x"] * 400)
    await lab.add(lab.key("ours"), *[b"x"] * 400)
    await lab.start(app)
    await eventually(lambda: len(order) == 800, what="all of both")
    until_theirs_are_read = order[: 800 - order[::-1].index("theirs")]
    # One turn in five is for both.
    assert until_theirs_are_read.count("ours") <= 400 // 5 + 20
