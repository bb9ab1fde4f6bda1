"""A worker that stops finishes what it has started, leaves the rest, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import faust
import pytest
from structlog.testing import capture_logs

from streams.transport import Entry

from .lab import EXPLICIT, Lab, LabApp
from .waiting import Received, eventually


async def begin_stop(lab: Lab, app: LabApp) -> asyncio.Task[None]:
    """Begin to stop `app`; return, once it waits for its agents, what ends when it has."""
    stopping = asyncio.create_task(lab.stop(app))
    await eventually(
        lambda: not app.redis_consumer.flow_active or stopping.done(), what="no more reading"
    )
    return stopping


async def assert_nothing_left(lab: Lab, app: LabApp) -> None:
    def left() -> list[asyncio.Task[Any]]:
        # Faust's conductor, in Cython or in Python, leaves a task behind that wants to put into a
        # full buffer, if its flow is suspended at that moment; it ends with the loop.
        of_faust = ("_handle_full", "Topic.put")
        return [
            task for task in app.running_tasks() if not any(name in repr(task) for name in of_faust)
        ]

    await eventually(lambda: not left(), what="the end of all tasks")
    assert await lab.connections() == []
    assert await lab.redis.keys(lab.name("fleet:*")) == []


async def test_what_was_started_is_finished_and_acknowledged(lab: Lab) -> None:
    app = lab.app(lease_s=20)
    gate = lab.gate()
    received = app.collect(app.stream_topic("t"), gate=gate)
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1", b"2")
    await received.until(1)
    await eventually(lambda: lab.has_pending(lab.key("t"), *ids), what="all pending")
    stopping = await begin_stop(lab, app)
    assert not stopping.done()
    gate.set()
    await stopping
    assert received.items == [b"0"]
    assert await lab.pending(lab.key("t")) == ids[1:]
    await assert_nothing_left(lab, app)


async def test_what_the_agent_is_working_on_is_waited_for_and_acknowledged(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t", EXPLICIT)
    gate = lab.gate()
    received = Received[list[Entry]]()

    async def agent(stream: faust.StreamT[list[Entry]]) -> None:
        async for entries in stream:
            with app.redis_consumer.ledger.working(entries):
                received.add(entries)
                await gate.wait()
                app.redis_consumer.settle(entries)

    app.agent(topic, name="agent")(agent)
    await lab.start(app)
    (first,) = await lab.add(lab.key("t"), b"0")
    await received.until(1)
    (second,) = await lab.add(lab.key("t"), b"1")
    await eventually(lambda: lab.has_pending(lab.key("t"), first, second), what="both pending")
    stopping = await begin_stop(lab, app)
    gate.set()
    await stopping
    assert await lab.pending(lab.key("t")) == [second]
    await assert_nothing_left(lab, app)


async def test_a_hung_agent_is_given_up_and_what_it_had_stays_pending(lab: Lab) -> None:
    app = lab.app(drain_timeout_s=0.3)
    received = app.collect(app.stream_topic("t"), gate=asyncio.Event())
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1")
    await received.until(1)
    await eventually(lambda: lab.has_pending(lab.key("t"), *ids), what="all pending")
    began = monotonic()
    with capture_logs() as logs:
        await lab.stop(app)
    assert 0.3 <= monotonic() - began < 1
    assert [log["entries"] for log in logs if log["action"] == "drain_timeout"] == [2]
    assert await lab.pending(lab.key("t")) == ids
    await assert_nothing_left(lab, app)


async def test_a_hung_batch_is_given_up_after_the_time_out(lab: Lab) -> None:
    app = lab.app(drain_timeout_s=0.3)
    begun = asyncio.Event()

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for entries in stream:
            with app.redis_consumer.ledger.working(entries):
                begun.set()
                await asyncio.Event().wait()

    app.agent(app.stream_topic("t", EXPLICIT), name="agent")(agent)
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0")
    await asyncio.wait_for(begun.wait(), 10)  # pending in Redis it is before
    began = monotonic()
    await lab.stop(app)
    assert 0.3 <= monotonic() - began < 1
    assert await lab.pending(lab.key("t")) == ids


async def test_the_lease_is_kept_while_the_worker_drains(lab: Lab) -> None:
    app = lab.app(lease_s=0.4)
    gate = lab.gate()
    received = app.collect(app.stream_topic("t"), gate=gate)
    await lab.start(app)
    await lab.add(lab.key("t"), b"0")
    await received.until(1)
    other = lab.app(lease_s=0.4)
    again = other.collect(other.stream_topic("t"))
    await lab.start(other)
    stopping = await begin_stop(lab, app)
    before = await lab.beats(app)
    await eventually(lambda: _beats_above(lab, app, before + 5), what="five beats, or two leases")
    assert await lab.owned_by(app)()
    gate.set()
    await stopping
    await eventually(lab.owned_by(other), what="the successor")
    assert again.items == []


async def _beats_above(lab: Lab, app: LabApp, count: int) -> bool:
    return await lab.beats(app) > count


async def test_a_message_that_only_one_of_two_agents_had_begun_is_not_waited_for(lab: Lab) -> None:
    app = lab.app(lease_s=20)
    topic = app.stream_topic("t")
    gates = lab.gate(), lab.gate()
    quick = Received[bytes]()

    async def quick_agent(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            quick.add(value)
            if value == b"1":
                await gates[0].wait()

    app.agent(topic, name="quick")(quick_agent)
    slow = app.collect(topic, name="slow", gate=gates[1])
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1")
    await quick.until(2)
    await slow.until(1)
    began = monotonic()
    stopping = await begin_stop(lab, app)
    gates[0].set()
    await eventually(lambda: len(app.redis_consumer._underway._begun) == 1, what="one agent done")
    gates[1].set()
    await stopping
    assert monotonic() - began < 1
    assert slow.items == [b"0"]
    assert await lab.pending(lab.key("t")) == ids[1:]


async def test_a_batch_of_take_is_finished(lab: Lab) -> None:
    app = lab.app()
    topic = app.stream_topic("t")
    batches = Received[list[bytes]]()
    gate = lab.gate()

    async def agent(stream: faust.StreamT[bytes]) -> None:
        async for values in stream.take(2, within=0.1):
            batches.add(list(values))
            await gate.wait()

    app.agent(topic, name="agent")(agent)
    await lab.start(app)
    await lab.add(lab.key("t"), b"0", b"1")
    await batches.until(1)
    stopping = await begin_stop(lab, app)
    gate.set()
    await stopping
    assert await lab.acknowledged_all(lab.key("t"))


async def test_an_idle_worker_stops_at_once_although_a_read_waits(lab: Lab) -> None:
    app = lab.app(block_ms=20_000)
    app.collect(app.stream_topic("t", partitions=4))
    await lab.start_and_own(app)
    await eventually(lab.reader_waits, what="a waiting read")
    began = monotonic()
    await lab.stop(app)
    assert monotonic() - began < 1
    await assert_nothing_left(lab, app)


async def test_a_worker_that_stands_by_stops_at_once(lab: Lab) -> None:
    owner, other = lab.app(lease_s=20), lab.app(lease_s=20)
    for app in (owner, other):
        app.collect(app.stream_topic("t"))
    await lab.start_and_own(owner)
    await lab.start(other)
    await eventually(lambda: lab.beats(other), what="a second worker, with nothing to read")
    began = monotonic()
    await lab.stop(other)
    assert monotonic() - began < 1
    assert other.running_tasks() == []
    assert await lab.owned_by(owner)()


async def test_a_worker_with_a_backlog_and_full_agents_stops_at_once(lab: Lab) -> None:
    app = lab.app(fetch_count=10, prefetch_entries=50, settings={"stream_buffer_maxsize": 2})
    gate = lab.gate()
    received = app.collect(app.stream_topic("t"), gate=gate)
    await lab.start(app)
    await lab.add(lab.key("t"), *[b"%d" % n for n in range(200)])
    await received.until(1)
    stopping = await begin_stop(lab, app)
    gate.set()
    began = monotonic()
    await stopping
    assert monotonic() - began < 1
    assert received.items == [b"0"]
    await assert_nothing_left(lab, app)


@pytest.mark.parametrize("steps", range(0, 120, 5))
async def test_a_worker_may_be_stopped_at_any_moment(lab: Lab, steps: int) -> None:
    app = lab.app(block_ms=20_000, lease_s=20)
    app.collect(app.stream_topic("t", partitions=2))
    starting = asyncio.create_task(lab.start(app))
    for _ in range(steps):
        await asyncio.sleep(0)
    await asyncio.wait_for(lab.stop(app), 2)
    await starting
    await asyncio.wait_for(lab.stop(app), 2)  # if it had not begun to start
    await eventually(lambda: not app.running_tasks(), what="the end of all tasks")
    await eventually(lambda: _no_connections(lab), what="the end of all connections")


async def _no_connections(lab: Lab) -> bool:
    return await lab.connections() == []
