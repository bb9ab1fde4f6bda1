"""The fleet where it is least comfortable: at the moment of leaving, and with odd company."""

from __future__ import annotations

import asyncio

import pytest

from streams.transport.coordinator import Coordinator
from streams.transport.fleet import Table

from .lab import Lab
from .waiting import eventually

OTHER = '{"worker":"elsewhere","readable":["t:0"],"reader":""}'


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


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"worker":1}',
        b'{"worker":"w","readable":["t:0"],"reader":"","counts_as":[]}',
        b'{"worker":"w","readable":["t:0"],"reader":"","counts_as":{"t":["u","many"]}}',
        b'{"worker":"w","readable":["t:0"],"reader":"","counts_as":{"t":1}}',
    ],
)
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


async def give_to_another(lab: Lab, partition: str) -> None:
    """Have somebody hold `partition` who is not here, and not dead for a lease."""
    await lab.redis.hset(lab.name("fleet:members"), "other", OTHER)
    await lab.redis.hset(lab.name("fleet:beats"), "other", 1)
    await lab.redis.hset(lab.name("fleet:owners"), partition, "other")


async def remove_the_other(lab: Lab) -> None:
    """Have him leave."""
    for part in ("members", "beats"):
        await lab.redis.hdel(lab.name(f"fleet:{part}"), "other")
    await lab.redis.hdel(lab.name("fleet:owners"), "t:0")


def give_up(coordinator: Coordinator, partition: str) -> asyncio.Task[None]:
    """Have a worker give up `partition`, as it does for one that joins."""
    task = asyncio.create_task(coordinator._give_up(partition))
    coordinator._leaving[partition] = task
    return task


async def test_a_partition_that_is_dropped_as_it_is_given_up_is_read_again(lab: Lab) -> None:
    """A worker that was frozen finds both in one turn: somebody has joined, its lease is over."""
    app = lab.app(lease_s=20)
    received = app.collect(app.stream_topic("t"))
    await lab.start_and_own(app)
    coordinator = app.redis_consumer._coordinator
    giving_up = give_up(coordinator, "t:0")
    coordinator._drop(["t:0"], why="the lease has run out")
    await giving_up
    assert coordinator._leaving == {}
    await lab.add(lab.key("t"), b"0")
    assert await received.until(1) == [b"0"]


async def test_a_look_that_was_under_way_drops_nothing_that_is_taken_meanwhile(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = lab.app(lease_s=20)
    app.collect(app.stream_topic("t"))
    await lab.start_and_own(app)
    coordinator = app.redis_consumer._coordinator
    beat, answered, taken = coordinator._fleet.beat, asyncio.Event(), asyncio.Event()
    await give_up(coordinator, "t:0")
    table = await coordinator._look()

    async def late_beat() -> Table:
        answer = await beat()
        answered.set()
        await taken.wait()
        return answer

    monkeypatch.setattr(coordinator._fleet, "beat", late_beat)
    looking = asyncio.create_task(coordinator._look())
    await answered.wait()
    await coordinator._do_part(table)
    taken.set()
    await looking
    assert [stream.tp.partition for stream in coordinator.held()] == [0]


async def test_what_faust_acknowledges_of_a_lost_partition_is_ignored(lab: Lab) -> None:
    app = lab.app(lease_s=20)
    gate = lab.gate()
    received = app.collect(app.stream_topic("t"), gate=gate)
    await lab.start_and_own(app)
    ids = await lab.add(lab.key("t"), b"0", b"1")
    await received.until(1)
    await eventually(lambda: lab.has_pending(lab.key("t"), *ids), what="all pending")
    await give_to_another(lab, "t:0")
    await eventually(lambda: not app.redis_consumer.assignment(), what="the loss")
    gate.set()
    await eventually(lambda: app.redis_consumer._n_acked >= 1, what="Faust's acknowledgement")
    assert await lab.pending(lab.key("t")) == ids
    await remove_the_other(lab)
    await lab.settled(lab.key("t"))
    assert received.items[-2:] == [b"0", b"1"]


async def test_a_worker_hands_nothing_more_of_a_lost_partition_to_its_agents(lab: Lab) -> None:
    app = lab.app(lease_s=20, settings={"stream_buffer_maxsize": 2})
    gate = lab.gate()
    received = app.collect(app.stream_topic("t"), gate=gate)
    await lab.start_and_own(app)
    await lab.add(lab.key("t"), *[b"%d" % n for n in range(100)])
    await received.until(1)
    await give_to_another(lab, "t:0")
    await eventually(lambda: not app.redis_consumer.assignment(), what="the loss")
    gate.set()
    await received.until(2)
    await remove_the_other(lab)
    await lab.settled(lab.key("t"))
    before, again = received.items[:-100], received.items[-100:]
    assert again == [b"%d" % n for n in range(100)]
    assert len(before) <= 5  # what was in the agent's own buffer
