"""Entries of Redis that hold several messages: acknowledged whole, handed over in parts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from streams.transport import Entry, Record, Settle, StreamConfig

from .lab import EXPLICIT, Lab, LabApp
from .waiting import Received, eventually

BUNDLES = StreamConfig(batch=True, settle=Settle.EXPLICIT, bundle_max=8)
COUNTS = "counts:t"


def records(n: int) -> list[Record]:
    return [Record(b"%d" % i, b"key", {"number": b"%d" % i}) for i in range(n)]


def entries_of(received: Received[list[Entry]]) -> list[Entry]:
    return [entry for batch in received.items for entry in batch]


async def reading(lab: Lab, **options: Any) -> tuple[LabApp, Received[list[Entry]]]:
    app = lab.app(lease_s=20, **options)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", BUNDLES))
    await lab.start_and_own(app)
    return app, received


async def reading_all(lab: Lab, count: int) -> tuple[LabApp, list[Entry]]:
    """Start an app, send so many messages, and return them as it was given them."""
    app, received = await reading(lab)
    await app.redis_producer.send_many(["t"], records(count))
    await eventually(lambda: len(entries_of(received)) == count, what="all messages")
    return app, entries_of(received)


async def left(redis: Redis, lab: Lab) -> int:
    counts: Any = await redis.hgetall(lab.name(COUNTS))
    return int(counts.get(b"added:0", 0)) - int(counts.get(b"done:0", 0))


async def test_messages_share_entries_and_come_one_by_one_in_order(lab: Lab) -> None:
    app, received = await reading(lab)
    await app.redis_producer.send_many(["t"], records(20))
    await eventually(lambda: len(entries_of(received)) == 20, what="all messages")
    assert [entry.value for entry in entries_of(received)] == [b"%d" % n for n in range(20)]
    assert [entry.header("number") for entry in entries_of(received)] == [
        b"%d" % n for n in range(20)
    ]
    info = await lab.redis.xinfo_stream(lab.key("t"))
    assert info["entries-added"] == 3
    assert await left(lab.redis, lab) == 20


async def test_an_entry_stays_pending_until_all_of_it_is_done_with(lab: Lab) -> None:
    app, entries = await reading_all(lab, 12)
    app.redis_consumer.settle(entries[:7])
    app.redis_consumer.settle(entries[8:])  # all of the second entry

    async def pending() -> int:
        return int((await lab.redis.xpending(lab.key("t"), lab.app_id))["pending"])

    async def is_half_done() -> bool:
        return await pending() == 1

    await eventually(is_half_done, what="the second entry")
    assert await left(lab.redis, lab) == 8
    app.redis_consumer.settle([entries[7]])

    async def is_empty() -> bool:
        return await pending() == 0 and await lab.redis.xlen(lab.key("t")) == 0

    await eventually(is_empty, what="the first entry, and trimming")
    assert await left(lab.redis, lab) == 0


async def test_who_takes_over_from_a_worker_that_leaves_repeats_nothing(lab: Lab) -> None:
    app, entries = await reading_all(lab, 8)
    app.redis_consumer.settle(entries[:5])
    await lab.stop(app)
    parts = lab.name("parts:t:0")
    assert await lab.redis.hlen(parts) == 1
    second, rest = await reading(lab)
    await eventually(lambda: len(entries_of(rest)) == 3, what="the rest")
    assert [entry.value for entry in entries_of(rest)] == [b"5", b"6", b"7"]
    second.redis_consumer.settle(entries_of(rest))

    async def nothing_is_left() -> bool:
        return not await lab.redis.exists(parts) and await left(lab.redis, lab) == 0

    await eventually(nothing_is_left, what="the note's end")
    assert (await lab.redis.xpending(lab.key("t"), lab.app_id))["pending"] == 0


async def test_who_takes_over_from_a_dead_worker_gets_the_whole_entry(lab: Lab) -> None:
    app, entries = await reading_all(lab, 8)
    app.redis_consumer.settle(entries[:5])
    await lab.crash(app)
    _, again = await reading(lab)
    await eventually(lambda: len(entries_of(again)) == 8, what="all of it")


async def test_a_dead_worker_has_done_for_good_what_was_noted_while_the_entry_waited(
    lab: Lab,
) -> None:
    app, entries = await reading_all(lab, 8)
    parts = lab.name("parts:t:0")
    for upto in (3, 7):
        app.redis_consumer.settle(entries[:upto])

        async def is_counted(upto: int = upto) -> bool:
            return await left(lab.redis, lab) == 8 - upto

        await eventually(is_counted, what="the count")
    await lab.crash(app)
    second, rest = await reading(lab)
    await eventually(lambda: len(entries_of(rest)) == 1, what="the last")
    assert [entry.value for entry in entries_of(rest)] == [b"7"]
    assert await left(lab.redis, lab) == 1
    second.redis_consumer.settle(entries_of(rest))

    async def is_over() -> bool:
        pending = await lab.redis.xpending(lab.key("t"), lab.app_id)
        return not (pending["pending"] or await lab.redis.exists(parts))

    await eventually(is_over, what="the end of it")
    assert await left(lab.redis, lab) == 0


async def test_who_does_not_own_the_partition_any_more_notes_nothing(lab: Lab) -> None:
    app, entries = await reading_all(lab, 8)
    await lab.redis.hset(lab.name("fleet:owners"), "t:0", "somebody else's")
    app.redis_consumer.settle(entries[:3])
    streams = [app.redis_consumer._layout.stream(entries[0].tp)]
    await app.redis_consumer._parts.note(streams)
    assert await left(lab.redis, lab) == 8
    assert not await lab.redis.exists(lab.name("parts:t:0"))


async def test_messages_for_several_topics_share_entries_in_each(lab: Lab) -> None:
    app = lab.app(lease_s=20)
    first: Received[list[Entry]] = app.collect(app.stream_topic("t", BUNDLES), name="t")
    second: Received[list[Entry]] = app.collect(app.stream_topic("u", BUNDLES), name="u")
    await lab.start_and_own(app)
    await app.redis_producer.send_many(["t", "u"], records(12))
    for topic, received in (("t", first), ("u", second)):
        await eventually(lambda r=received: len(entries_of(r)) == 12, what=topic)  # type: ignore[misc]
        assert [entry.value for entry in entries_of(received)] == [b"%d" % n for n in range(12)]
        assert (await lab.redis.xinfo_stream(lab.key(topic)))["entries-added"] == 2
        counts: Any = await lab.redis.hgetall(lab.name(f"counts:{topic}"))
        assert counts[b"added:0"] == b"12"


async def test_a_note_of_an_entry_that_is_gone_is_removed(lab: Lab) -> None:
    parts = lab.name("parts:t:0")
    await lab.redis.hset(parts, "1-1", "0,1")
    await reading(lab)

    async def is_gone() -> bool:
        return not await lab.redis.exists(parts)

    await eventually(is_gone, what="the note's end")


async def test_a_count_that_is_wrong_is_right_again_when_all_is_done(lab: Lab) -> None:
    app, received = await reading(lab)
    await lab.redis.hset(lab.name(COUNTS), "added:0", 1_000)
    await app.redis_producer.send_many(["t"], records(3))
    await eventually(lambda: len(entries_of(received)) == 3, what="all messages")
    app.redis_consumer.settle(entries_of(received))

    async def is_right() -> bool:
        return await left(lab.redis, lab) == 0

    await eventually(is_right, what="the count")


async def test_what_was_there_before_anything_was_counted_is_counted(lab: Lab) -> None:
    await lab.redis.xgroup_create(lab.key("t"), lab.app_id, id="0", mkstream=True)
    await lab.add(lab.key("t"), b"1", b"2", b"3")
    gate = asyncio.Event()
    app = lab.app(lease_s=20)
    app.collect(app.stream_topic("t", BUNDLES), gate=gate)
    await lab.start_and_own(app)
    assert await left(lab.redis, lab) == 3
    gate.set()


async def test_reading_asks_for_no_more_than_fits(lab: Lab) -> None:
    app, received = await reading(lab, fetch_count=16, prefetch_entries=32)
    for _ in range(10):
        await app.redis_producer.send_many(["t"], records(8))
    tp = next(iter(app.redis_consumer.assignment()))
    await eventually(lambda: len(entries_of(received)) >= 24, what="what fits")
    assert app.redis_consumer.ledger.unsettled(tp) <= 32
    seen = 0
    while seen < 80:
        await eventually(lambda n=seen: len(entries_of(received)) > n, what="more")  # type: ignore[misc]
        entries = entries_of(received)
        assert len(entries) - seen <= 32
        app.redis_consumer.settle(entries[seen:])
        seen = len(entries)


async def test_what_is_read_beside_bundles_is_read_in_large_portions(lab: Lab) -> None:
    app = lab.app(lease_s=20, fetch_count=80, prefetch_entries=1_000)
    app.collect(app.stream_topic("t", BUNDLES))
    plain: Received[list[Entry]] = app.collect(app.stream_topic("plain", EXPLICIT), name="plain")
    await lab.add(lab.key("plain"), *[b"x"] * 880)
    await lab.redis.config_resetstat()
    await lab.start(app)
    await eventually(lambda: len(entries_of(plain)) == 880, what="all of it")
    reads = (await lab.redis.info("commandstats"))["cmdstat_xreadgroup"]["calls"]
    # 10 with the bundles' topic and 80 without, in turn; 88 if it were 10 each time.
    assert reads < 40


def test_only_an_agent_that_is_given_entries_can_read_several_in_one() -> None:
    with pytest.raises(ValueError, match="bundle_max"):
        StreamConfig(bundle_max=2)
    with pytest.raises(ValueError, match="bundle_max"):
        StreamConfig(external_key="x", batch=True, bundle_max=2)
