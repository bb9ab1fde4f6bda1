"""Redis goes away and comes back: the worker waits, and goes on where it was."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from structlog.testing import capture_logs

from config.embedded import EphemeralServers
from streams.transport import BrokerUnavailableError

from .lab import EXPLICIT, Lab, LabApp
from .waiting import eventually


async def start_again(lab: Lab, servers: EphemeralServers) -> None:
    """Start Redis with the data it had."""
    await asyncio.to_thread(servers.start_redis)
    await lab.reconnect()


async def start_without_redis(lab: Lab, app: LabApp) -> asyncio.Task[None]:
    """Start `app` and return, once it waits for Redis, what ends when it is ready."""
    with capture_logs() as logs:
        starting = asyncio.create_task(lab.start(app))
        await eventually(
            lambda: any(log["action"] == "broker_unavailable" for log in logs),
            what="an attempt to reach Redis",
        )
    return starting


async def test_redis_killed_and_started_again_with_its_data(
    lab: Lab, servers: EphemeralServers
) -> None:
    app = lab.app(block_ms=20_000, backoff_max_s=0.1)
    topic = app.stream_topic("t")
    received = app.collect(topic)
    await lab.start_and_own(app)
    await lab.send(topic, value=b"0")
    await lab.settled(lab.key("t"))
    await asyncio.to_thread(servers.kill_redis)
    with pytest.raises(BrokerUnavailableError):
        await lab.send(topic, value=b"refused")
    await start_again(lab, servers)
    await lab.send(topic, value=b"1")
    assert await received.until(2) == [b"0", b"1"]
    await lab.settled(lab.key("t"))


async def test_what_was_settled_during_an_outage_is_acknowledged_after_it(
    lab: Lab, servers: EphemeralServers
) -> None:
    app = lab.app(backoff_max_s=0.1, lease_s=10)
    received = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    await lab.add(lab.key("t"), b"0")
    ((entry,),) = await received.until(1)
    await asyncio.to_thread(servers.kill_redis)
    app.redis_consumer.settle([entry])
    await start_again(lab, servers)
    await lab.settled(lab.key("t"))
    assert len(received.items) == 1


async def test_redis_that_is_not_up_at_the_start_is_waited_for(
    lab: Lab, servers: EphemeralServers
) -> None:
    await asyncio.to_thread(servers.stop_redis)
    app = lab.app(backoff_max_s=0.1)
    topic = app.stream_topic("t")
    received = app.collect(topic)
    starting = await start_without_redis(lab, app)
    await start_again(lab, servers)
    await starting
    await lab.send(topic, value=b"0")
    assert await received.until(1) == [b"0"]


async def test_a_worker_that_never_saw_redis_stops_at_once(
    lab: Lab, servers: EphemeralServers
) -> None:
    await asyncio.to_thread(servers.stop_redis)
    app = lab.app(backoff_max_s=30.0, backoff_min_s=30.0)
    app.collect(app.stream_topic("t"))
    starting = await start_without_redis(lab, app)
    began = monotonic()
    await lab.stop(app)
    assert monotonic() - began < 1
    await starting
    assert app.running_tasks() == []


@pytest.mark.parametrize("unacknowledged", [False, True])
async def test_a_stop_during_an_outage_ends(
    lab: Lab, servers: EphemeralServers, unacknowledged: bool
) -> None:
    app = lab.app(backoff_max_s=0.1, drain_timeout_s=0.3, lease_s=10)
    received = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    await lab.add(lab.key("t"), b"0")
    ((entry,),) = await received.until(1)
    await asyncio.to_thread(servers.kill_redis)
    if unacknowledged:
        app.redis_consumer.settle([entry])
    began = monotonic()
    await lab.stop(app)
    assert monotonic() - began < 1.5
    assert app.running_tasks() == []
    await start_again(lab, servers)
    assert await lab.pending(lab.key("t")) == [entry.id]


async def test_a_server_that_freezes_loses_and_swaps_no_answers(lab: Lab) -> None:
    """An answer that comes too late must not be taken for that of the next command."""
    app = lab.app(timeout_s=0.2, block_ms=100, backoff_max_s=0.1, lease_s=5, sweep_s=60)
    received = app.collect(app.stream_topic("t", EXPLICIT, partitions=2))
    await lab.start_and_own(app)
    reader = await lab.reader_id()
    await lab.redis.execute_command("DEBUG", "SLEEP", "0.8")

    async def reconnected() -> bool:
        return await lab.reader_id() != reader

    await eventually(reconnected, what="another reader connection")
    ids = await lab.add(lab.key("t", 0), b"0", b"1") + await lab.add(lab.key("t", 1), b"2", b"3")
    await eventually(lambda: sum(map(len, received.items)) == 4, what="all entries")
    by_partition = {entry.id: entry.tp.partition for batch in received.items for entry in batch}
    assert by_partition == dict(zip(ids, (0, 0, 1, 1), strict=True))
    app.redis_consumer.settle(entry for batch in received.items for entry in batch)
    for partition in range(2):
        await lab.settled(lab.key("t", partition))
