"""What is acknowledged and when, by each of the ways a topic can say so."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
import pytest

from streams.transport import Entry, Settle, StreamConfig

from .lab import EXPLICIT, Lab
from .waiting import Received, eventually


class AgentFailedError(Exception):
    """What the agents here raise."""


def add_failing_agent(app: faust.App, topic: Any, *, fail_on: bytes) -> Received[Any]:
    """Add an agent that raises the first time that it sees `fail_on`."""
    received = Received[Any]()

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for value in stream:
            values = [entry.value for entry in value] if isinstance(value, list) else [value]
            first_time = fail_on not in received.items
            for item in values:
                received.add(item)
            if fail_on in values and first_time:
                raise AgentFailedError

    app.agent(topic, name="agent")(agent)
    return received


# -- Faust acknowledges


async def test_an_entry_is_acknowledged_once_its_agent_has_gone_past_it(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    gate = lab.gate()
    received = app.collect(topic, gate=gate)
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1")
    await received.until(1)
    await eventually(lambda: lab.has_pending(lab.key("t"), *ids), what="both pending")
    gate.set()
    await lab.settled(lab.key("t"))
    assert received.items == [b"0", b"1"]


async def test_a_later_entry_done_first_leaves_the_earlier_one_pending(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    gate = lab.gate()
    received = Received[bytes]()

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for value in stream:
            received.add(value)
            if value == b"slow":
                await gate.wait()

    app.agent(topic, name="agent", concurrency=2)(agent)
    await lab.start(app)
    slow, *_ = await lab.add(lab.key("t"), b"slow", b"1", b"2", b"3")
    await received.until(4)
    await eventually(lambda: lab.has_pending(lab.key("t"), slow), what="only the slow one pending")
    gate.set()
    await lab.settled(lab.key("t"))


async def test_with_several_agents_the_last_one_counts(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    gate = lab.gate()
    quick, slow = app.collect(topic, name="quick"), app.collect(topic, name="slow", gate=gate)
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1")
    await quick.until(2)
    await slow.until(1)
    assert await lab.pending(lab.key("t")) == ids
    gate.set()
    await lab.settled(lab.key("t"))
    assert slow.items == [b"0", b"1"]


async def test_take_acknowledges_a_batch_behind_its_body(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    gate = lab.gate()
    batches = Received[list[bytes]]()

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for values in stream.take(3, within=0.2):
            batches.add(list(values))
            await gate.wait()

    app.agent(topic, name="agent")(agent)
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1", b"2", b"3")
    assert await batches.until(1) == [[b"0", b"1", b"2"]]
    await eventually(lambda: lab.has_pending(lab.key("t"), *ids), what="all pending")
    gate.set()
    assert await batches.until(2) == [[b"0", b"1", b"2"], [b"3"]]
    await lab.settled(lab.key("t"))


async def test_what_an_agent_raised_on_is_acknowledged_and_the_agent_goes_on(lab: Lab) -> None:
    """Faust's rule: an agent decides itself what is to be tried again."""
    app = lab.app()
    topic = app.stream_topic("t")
    received = add_failing_agent(app, topic, fail_on=b"1")
    await lab.start(app)
    await lab.add(lab.key("t"), b"0", b"1", b"2")
    assert await received.until(3) == [b"0", b"1", b"2"]
    await lab.settled(lab.key("t"))


async def test_what_cannot_be_decoded_is_acknowledged_and_the_agent_goes_on(lab: Lab) -> None:
    """Faust's rule as well: the error is raised in the agent."""
    app = lab.app()
    topic = app.stream_topic("t", value_serializer="json")
    received = app.collect(topic)
    await lab.start(app)
    await lab.add(lab.key("t"), b"{", b"2")
    assert await received.until(1) == [2]
    await lab.settled(lab.key("t"))
    assert app.redis_consumer.ledger.total_unsettled() == 0


async def test_a_topic_without_acks_is_acknowledged_on_delivery(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", acks=False)
    gate = lab.gate()
    received = app.collect(topic, gate=gate)
    await lab.start(app)
    await lab.add(lab.key("t"), b"0", b"1", b"2")
    await received.until(1)
    await lab.settled(lab.key("t"))
    assert received.items == [b"0"]
    gate.set()
    assert await received.until(3) == [b"0", b"1", b"2"]


async def test_a_batch_that_faust_acknowledges_is_acknowledged_whole(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", StreamConfig(batch=True))
    gate = lab.gate()
    received = app.collect(topic, gate=gate)
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1", b"2")
    ((*entries,),) = await received.until(1)
    assert [entry.id for entry in entries] == ids
    assert await lab.pending(lab.key("t")) == ids
    gate.set()
    await lab.settled(lab.key("t"))


# -- The agent settles


def entries_of(batches: list[list[Entry]]) -> list[Entry]:
    return [entry for batch in batches for entry in batch]


@pytest.mark.parametrize("acks", [False, True])
async def test_only_what_was_settled_is_acknowledged(lab: Lab, acks: bool) -> None:
    app = lab.app()
    topic = app.stream_topic("t", EXPLICIT, acks=acks)
    received = app.collect(topic)
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1", b"2")
    await eventually(lambda: len(entries_of(received.items)) == 3, what="all three")
    entries = entries_of(received.items)
    assert [entry.value for entry in entries] == [b"0", b"1", b"2"]
    app.redis_consumer.settle([entries[1]])
    await eventually(lambda: lab.has_pending(lab.key("t"), ids[0], ids[2]), what="one settled")
    app.redis_consumer.settle(entries)  # the one in the middle a second time
    await lab.settled(lab.key("t"))
    app.redis_consumer.settle(entries)  # and all of them once more
    # Redis has acknowledged before the worker has its answer.
    await app.redis_consumer._acknowledger.flush()
    assert app.redis_consumer._acknowledger.total == 3


async def test_what_an_agent_raised_on_before_settling_stays_pending(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", EXPLICIT)
    received = add_failing_agent(app, topic, fail_on=b"0")
    await lab.start(app)
    (first,) = await lab.add(lab.key("t"), b"0")
    await received.until(1)
    (second,) = await lab.add(lab.key("t"), b"1")
    assert await received.until(2) == [b"0", b"1"]
    assert await lab.pending(lab.key("t")) == [first, second]


@pytest.mark.parametrize("settle", Settle)
async def test_a_batch_carries_it_all_and_is_of_one_partition_where_faust_acknowledges(
    lab: Lab, settle: Settle
) -> None:
    app = lab.app()
    topic = app.stream_topic("t", StreamConfig(batch=True, settle=settle), partitions=2)
    received = app.collect(topic)
    await lab.start(app)
    for n in range(10):
        await topic.send(key=b"%d" % n, value=b"v%d" % n, headers={"n": b"%d" % n})
    await eventually(lambda: len(entries_of(received.items)) == 10, what="all ten")
    if settle is Settle.FAUST:
        assert all(len({entry.tp for entry in batch}) == 1 for batch in received.items)
    seen = sorted(entries_of(received.items), key=lambda entry: entry.key or b"")
    assert [(e.value, e.header("n"), e.headers()) for e in seen] == [
        (b"v%d" % n, b"%d" % n, {"n": b"%d" % n}) for n in range(10)
    ]


async def test_settling_needs_batches() -> None:
    with pytest.raises(ValueError, match="settle"):
        StreamConfig(settle=Settle.EXPLICIT)


async def test_a_thousand_entries_settled_in_any_order_are_all_acknowledged(lab: Lab) -> None:
    app = lab.app(fetch_count=100, prefetch_entries=300)
    topic = app.stream_topic("t", EXPLICIT, partitions=3)
    seen: set[bytes] = set()

    async def settle_late(entries: list[Entry]) -> None:
        await asyncio.sleep(hash(entries[0].id) % 7 / 1000)
        for entry in reversed(entries):
            app.redis_consumer.settle([entry])

    async def agent(stream: faust.StreamT[Any]) -> None:
        async with asyncio.TaskGroup() as group:
            async for entries in stream:
                seen.update(entry.value or b"" for entry in entries)
                group.create_task(settle_late(entries))

    app.agent(topic, name="agent")(agent)
    await lab.start(app)
    for n in range(3):
        await lab.add(lab.key("t", n), *[b"%d" % (n + 3 * m) for m in range(400)])
    for n in range(3):
        await lab.settled(lab.key("t", n))
    assert len(seen) == 1200
    assert app.redis_consumer.ledger.total_unsettled() == 0
