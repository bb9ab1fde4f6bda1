"""Workers share partitions: evenly, one reader each, and what moves moves whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import faust
import pytest
import redis.asyncio
import redis.exceptions
from structlog.testing import capture_logs

from streams.transport import Entry
from streams.transport.fleet import Table

from .lab import EXPLICIT, Lab, LabApp
from .waiting import Received, eventually


def shares(*apps: LabApp) -> list[int]:
    return [len(app.redis_consumer.assignment()) for app in apps]


def values(received: Received[list[Entry]]) -> list[bytes | None]:
    return [entry.value for batch in received.items for entry in batch]


async def test_workers_share_evenly_and_only_what_must_move_moves(lab: Lab) -> None:
    apps = [lab.app(lease_s=20) for _ in range(3)]
    for app in apps:
        app.collect(app.stream_topic("t", partitions=9))
    first, second, third = apps
    await lab.start(first)
    await eventually(lambda: shares(first) == [9], what="all for one")
    await lab.start(second)
    await eventually(lambda: sorted(shares(first, second)) == [4, 5], what="even shares")
    before = [app.redis_consumer.assignment() for app in (first, second)]
    await lab.start(third)
    await eventually(lambda: shares(*apps) == [3, 3, 3], what="even shares again")
    for app, held in zip((first, second), before, strict=True):
        assert app.redis_consumer.assignment() < held
    kept = [app.redis_consumer.assignment() for app in (first, second)]
    await lab.stop(third)
    await eventually(lambda: sum(shares(first, second)) == 9, what="all taken")
    for app, held in zip((first, second), kept, strict=True):
        assert app.redis_consumer.assignment() > held


async def test_a_worker_that_stops_is_followed_at_once_and_a_dead_one_after_its_lease(
    lab: Lab,
) -> None:
    apps = [lab.app(lease_s=1.0) for _ in range(3)]
    for app in apps:
        app.collect(app.stream_topic("t", partitions=6))
        await lab.start(app)
    await eventually(lambda: shares(*apps) == [2, 2, 2], what="even shares")
    await lab.stop(apps[0])
    await eventually(lambda: shares(*apps[1:]) == [3, 3], what="its share", timeout_s=0.9)
    await lab.crash(apps[1], lease_runs_out=False)
    await eventually(lambda: shares(apps[2]) == [6], what="the dead one's share", timeout_s=3)


async def test_what_a_dead_worker_left_pending_comes_first(lab: Lab) -> None:
    dead, heir = lab.app(lease_s=0.5), lab.app(lease_s=0.5)
    received = [app.collect(app.stream_topic("t", EXPLICIT)) for app in (dead, heir)]
    await lab.start_and_own(dead)
    await lab.add(lab.key("t"), b"0", b"1", b"2")
    await eventually(lambda: values(received[0]) == [b"0", b"1", b"2"], what="the delivery")
    await lab.start(heir)
    await lab.crash(dead, lease_runs_out=False)
    await lab.add(lab.key("t"), b"3")
    await eventually(lambda: values(received[1]) == [b"0", b"1", b"2", b"3"], what="all, in order")


async def test_the_read_of_a_dead_worker_is_cut_off_before_its_partitions_are_read(
    lab: Lab,
) -> None:
    # What a frozen worker leaves: a member that says nothing, and a read that waits in Redis.
    await lab.redis.xgroup_create(lab.key("t"), lab.app_id, "0", mkstream=True)
    frozen = redis.asyncio.Redis.from_url(lab.url, client_name="lab", single_connection_client=True)
    async with frozen:
        reader = await frozen.client_id()
        run_id = (await lab.redis.info("server"))["run_id"]
        said = {"worker": "frozen", "readable": ["t:0"], "reader": f"{run_id}/{reader}"}
        await lab.redis.hset(lab.name("fleet:members"), "token", json.dumps(said))
        await lab.redis.hset(lab.name("fleet:beats"), "token", 7)
        await lab.redis.hset(lab.name("fleet:owners"), "t:0", "token")
        app = lab.app(lease_s=0.5)
        received = app.collect(app.stream_topic("t"))
        await lab.start(app)
        with pytest.raises(redis.exceptions.ConnectionError):
            await frozen.xreadgroup(lab.app_id, "owner", {lab.key("t"): ">"}, block=20_000)
    await lab.add(lab.key("t"), b"0")
    assert await received.until(1) == [b"0"]


async def test_work_that_was_begun_is_finished_before_its_partition_moves(lab: Lab) -> None:
    apps = [lab.app(lease_s=20), lab.app(lease_s=20)]
    gate = lab.gate()
    received: list[Received[bytes | None]] = []

    def work(app: LabApp) -> None:
        seen = Received[bytes | None]()
        received.append(seen)

        async def agent(stream: faust.StreamT[Any]) -> None:
            async for entries in stream:
                for entry in entries:
                    with app.redis_consumer.ledger.working([entry]) as ours:
                        for mine in ours:
                            seen.add(mine.value)
                            await gate.wait()
                            app.redis_consumer.settle([mine])

        app.agent(app.stream_topic("t", EXPLICIT, partitions=2), name="agent")(agent)

    for app in apps:
        work(app)
    await lab.start(apps[0])
    await eventually(lambda: shares(apps[0]) == [2], what="both partitions")
    for partition in range(2):
        await lab.add(lab.key("t", partition), b"a%d" % partition, b"b%d" % partition)
    await received[0].until(1)
    await lab.start(apps[1])
    await eventually(lambda: lab.beats(apps[1]), what="a second worker")
    moving = {tp.partition for tp in apps[0].redis_consumer.assignment()}
    assert len(moving) >= 1
    gate.set()
    await eventually(lambda: shares(*apps) == [1, 1], what="one each")
    for partition in range(2):
        await lab.settled(lab.key("t", partition))
    # Each entry was worked on once, by one of them, and in order per partition.
    for partition in range(2):
        mine = [b"a%d" % partition, b"b%d" % partition]
        seen = [value for part in received for value in part.items if value in mine]
        assert seen == mine


async def test_a_look_that_is_answered_late_takes_nothing_back_that_was_given_up_meanwhile(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = lab.app(lease_s=20), lab.app(lease_s=20)
    gate, seen = lab.gate(), Received[bytes | None]()

    async def agent(stream: faust.StreamT[Any]) -> None:
        async for entries in stream:
            with holder.redis_consumer.ledger.working(entries):
                seen.add(entries[0].value)
                await gate.wait()
                holder.redis_consumer.settle(entries)

    topic = holder.stream_topic("t", EXPLICIT, partitions=2)
    holder.agent(topic, name="agent", concurrency=2)(agent)
    other.collect(other.stream_topic("t", EXPLICIT, partitions=2))
    await lab.start(holder)
    await eventually(lambda: shares(holder) == [2], what="both partitions")
    for partition in range(2):
        await lab.add(lab.key("t", partition), b"a")
    await seen.until(1)
    looks: list[Table] = []
    look = holder.redis_consumer._fleet.beat
    answer = asyncio.Event()

    async def look_late() -> Table:
        table = await look()
        if len(table.members) == 2:
            looks.append(table)
            if len(looks) == 2:  # the first has had it give up what is under work
                await answer.wait()
        return table

    monkeypatch.setattr(holder.redis_consumer._fleet, "beat", look_late)
    await lab.start(other)
    await eventually(lambda: len(looks) == 2, what="a look that waits for its answer")
    gate.set()
    await eventually(lambda: shares(other) == [1], what="one for the other")
    with capture_logs() as logs:
        answer.set()
        await eventually(lambda: len(looks) >= 4, what="two more looks")
    assert [log for log in logs if log["action"] in {"partitions_taken", "partition_lost"}] == []
    assert shares(holder, other) == [1, 1]


async def test_a_worker_that_was_removed_drops_what_it_had_and_joins_again(lab: Lab) -> None:
    app = lab.app(lease_s=20)
    received = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start_and_own(app)
    (first,) = await lab.add(lab.key("t"), b"0")
    await received.until(1)
    with capture_logs() as logs:
        await lab.redis.delete(*(lab.name(f"fleet:{part}") for part in ("beats", "owners")))
        await eventually(
            lambda: any(log["action"] == "partition_lost" for log in logs), what="the loss"
        )
    app.redis_consumer.settle(received.items[0])  # too late: it is somebody's again by now
    await received.until(2)
    assert values(received) == [b"0", b"0"]
    assert await lab.pending(lab.key("t")) == [first]
    app.redis_consumer.settle(received.items[1])
    await lab.settled(lab.key("t"))
