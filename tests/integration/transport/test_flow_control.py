"""What a worker has in hand is bounded, per partition, and held up by nobody else."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import faust
import pytest

from streams.transport import Entry

from .lab import EXPLICIT, Lab, LabApp
from .waiting import Received, eventually

#: A read that nothing ends takes longer than any test here.
BLOCK_MS = 20_000


def in_hand(received: Received[list[Entry]]) -> list[Entry]:
    return [entry for batch in received.items for entry in batch]


def bounded(lab: Lab, *, fetch: int = 10, prefetch: int = 20) -> LabApp:
    """Make an app with room for `prefetch` entries per partition."""
    return lab.app(
        fetch_count=fetch, prefetch_entries=prefetch, block_ms=BLOCK_MS, sweep_s=60, lease_s=20
    )


async def test_a_partition_with_too_much_in_hand_is_not_read_and_others_are(lab: Lab) -> None:
    app = bounded(lab)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT, partitions=2))
    await lab.start(app)
    await lab.add(lab.key("t", 0), *[b"%d" % n for n in range(100)])
    await eventually(lambda: len(in_hand(received)) == 20, what="a full partition")
    await lab.add(lab.key("t", 1), *[b"%d" % n for n in range(5)])
    await eventually(lambda: len(in_hand(received)) == 25, what="the other partition")
    assert len(await lab.pending(lab.key("t", 0))) == 20
    assert (await lab.group(lab.key("t", 0)))["lag"] == 80


async def test_a_full_partition_is_read_again_at_once_when_it_has_room(lab: Lab) -> None:
    app = bounded(lab)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT, partitions=2))
    await lab.start(app)
    await lab.add(lab.key("t", 0), *[b"%d" % n for n in range(100)])
    await eventually(lambda: len(in_hand(received)) == 20, what="a full partition")
    await eventually(lab.reader_waits, what="a read of the other partition that waits")
    began = monotonic()
    for settled in range(10, 100, 10):
        app.redis_consumer.settle(in_hand(received)[settled - 10 : settled])
        expected = min(settled + 20, 100)
        await eventually(lambda n=expected: len(in_hand(received)) == n, what="the next read")  # type: ignore[misc]
    assert [entry.value for entry in in_hand(received)] == [b"%d" % n for n in range(100)]
    assert monotonic() - began < 2


async def test_when_all_partitions_are_full_the_first_with_room_is_read_again(lab: Lab) -> None:
    app = bounded(lab)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    await lab.add(lab.key("t"), *[b"%d" % n for n in range(30)])
    await eventually(lambda: len(in_hand(received)) == 20, what="a full partition")
    app.redis_consumer.settle(in_hand(received)[5:15])
    await eventually(lambda: len(in_hand(received)) == 30, what="the rest", timeout_s=2)


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_busy_agent_never_waits_for_a_read_to_end(lab: Lab, partitions: int) -> None:
    """Room appears again and again, also while the reader is being told of it."""
    app = bounded(lab, fetch=2, prefetch=4)
    topic = app.stream_topic("t", EXPLICIT, partitions=partitions)
    done: list[Entry] = []

    async def agent(stream: faust.StreamT[list[Entry]]) -> None:
        async for entries in stream:
            for entry in entries:
                await asyncio.sleep(0)
                app.redis_consumer.settle([entry])
                done.append(entry)

    app.agent(topic, name="agent")(agent)
    await lab.start(app)
    for partition in range(partitions):
        await lab.add(lab.key("t", partition), *[b"%d" % n for n in range(300)])
    await eventually(lambda: len(done) == 300 * partitions, what="all entries", timeout_s=6)


async def test_what_faust_acknowledges_is_bounded_as_well(lab: Lab) -> None:
    app = bounded(lab)
    gate = lab.gate()
    received = app.collect(app.stream_topic("t"), gate=gate)
    await lab.start(app)
    await lab.add(lab.key("t"), *[b"%d" % n for n in range(100)])
    await received.until(1)
    await eventually(lambda: not app.redis_consumer.ledger.has_room(_tp(app)), what="no room")
    assert len(await lab.pending(lab.key("t"))) <= 20
    gate.set()
    assert await received.until(100) == [b"%d" % n for n in range(100)]


async def test_a_topic_without_acks_is_bounded_as_well(lab: Lab) -> None:
    app = lab.app(
        fetch_count=10, prefetch_entries=20, settings={"stream_buffer_maxsize": 2}, block_ms=50
    )
    gate = lab.gate()
    received = app.collect(app.stream_topic("t", acks=False), gate=gate)
    await lab.start(app)
    await lab.add(lab.key("t"), *[b"%d" % n for n in range(100)])
    await received.until(1)
    await eventually(lambda: not app.redis_consumer.ledger.has_room(_tp(app)), what="no room")
    assert (await lab.group(lab.key("t")))["lag"] >= 70
    gate.set()
    assert await received.until(100) == [b"%d" % n for n in range(100)]
    await lab.settled(lab.key("t"))


async def test_an_agent_that_is_full_holds_up_no_other_topic(lab: Lab) -> None:
    app = lab.app(settings={"stream_buffer_maxsize": 2})
    gate = lab.gate()
    blocked = app.collect(app.stream_topic("blocked"), name="blocked", gate=gate)
    free = app.collect(app.stream_topic("free"), name="free")
    await lab.start(app)
    await lab.add(lab.key("blocked"), *[b"%d" % n for n in range(50)])
    await blocked.until(1)
    await lab.add(lab.key("free"), *[b"%d" % n for n in range(50)])
    assert await free.until(50) == [b"%d" % n for n in range(50)]
    await lab.settled(lab.key("free"))
    assert blocked.items == [b"0"]
    gate.set()
    assert await blocked.until(50) == [b"%d" % n for n in range(50)]


def _tp(app: LabApp) -> faust.types.TP:
    (tp,) = app.redis_consumer.assignment()
    return tp


async def reads(app: LabApp, count: int) -> None:
    """Wait until so many entries are read and not settled."""
    await eventually(lambda: app.redis_consumer.ledger.total_unsettled() == count, what="the reads")


async def test_what_waits_for_an_agent_that_is_given_lists_is_put_together(lab: Lab) -> None:
    app = lab.app(settings={"stream_buffer_maxsize": 1})
    gate = asyncio.Event()
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT), gate=gate)
    await lab.start(app)
    for n in range(1, 9):
        await lab.add(lab.key("t"), b"%d" % n)
        await reads(app, n)  # each by itself
    gate.set()
    await eventually(lambda: sum(map(len, received.items)) == 8, what="all of them")
    values = [entry.value for entries in received.items for entry in entries]
    assert values == [b"%d" % n for n in range(1, 9)]
    assert len(received.items) <= 4  # in hand, in Faust's buffer, on the way there, and the rest


async def behind_a_gate(
    lab: Lab, *, partitions: int, entries: int, **options: Any
) -> tuple[LabApp, asyncio.Event, Received[list[Entry]]]:
    """Have `entries` of all partitions read that wait for an agent, which has the first of them."""
    app = lab.app(settings={"stream_buffer_maxsize": 1}, **options)
    gate = asyncio.Event()
    topic = app.stream_topic("t", EXPLICIT, partitions=partitions)
    received: Received[list[Entry]] = app.collect(topic, gate=gate)
    await lab.start_and_own(app)
    for n in range(1, entries + 1):
        await lab.add(lab.key("t", n % partitions), b"%d" % n)
        if n <= 3:  # one for the agent, one for its buffer, one that waits to go there
            await reads(app, n)
    await reads(app, entries)
    return app, gate, received


async def test_what_is_settled_explicitly_is_put_together_across_partitions(lab: Lab) -> None:
    app, gate, received = await behind_a_gate(lab, partitions=8, entries=32)
    gate.set()
    await eventually(lambda: sum(map(len, received.items)) == 32, what="all of them")
    assert len(received.items) <= 4
    entries = [entry for batch in received.items for entry in batch]
    for partition in range(8):
        values = [int(entry.value or b"") for entry in entries if entry.tp.partition == partition]
        assert values == sorted(values)
        assert len(values) == 4
    app.redis_consumer.settle(entries)
    for partition in range(8):
        await lab.settled(lab.key("t", partition))


async def test_of_a_partition_that_is_given_up_nothing_that_still_waits_is_handed_on(
    lab: Lab,
) -> None:
    app, gate, received = await behind_a_gate(lab, partitions=4, entries=40, lease_s=2)
    in_hand = {entry.id for batch in received.items for entry in batch}
    successor = lab.app(lease_s=2)
    theirs: Received[list[Entry]] = successor.collect(
        successor.stream_topic("t", EXPLICIT, partitions=4)
    )
    await lab.start(successor)
    await eventually(lambda: len(app.redis_consumer.assignment()) == 2, what="half of them left")
    kept = {tp.partition for tp in app.redis_consumer.assignment()}
    gate.set()
    await eventually(lambda: sum(map(len, theirs.items)) >= 20, what="the successor's half")
    await eventually(
        lambda: sum(e.tp.partition in kept for batch in received.items for e in batch) == 20,
        what="what was kept",
    )
    behind = [e for batch in received.items for e in batch if e.tp.partition not in kept]
    # What had reached Faust by then is the agent's to see, and to find that it is another's now.
    with app.redis_consumer.ledger.working(behind) as ours:
        assert not ours
    assert len(behind) < 20
    assert in_hand <= {e.id for batch in received.items for e in batch}
