"""Redis goes wrong and comes right again: the worker says so, waits, and needs no restart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from time import monotonic

import psycopg2
import pytest

from config.embedded import EphemeralServers
from streams.transport.lua import script
from tests.faults.culprit import counted, is_counted, is_named
from tests.faults.scene import Scene, hold_scene
from tests.integration.transport.nodes import Node, client_of, running
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import eventually

#: What health and topology call it.
CULPRIT = "redis"
USER = "limited"
USER_IN_URL = f"{USER}:secret@"


@dataclass(frozen=True)
class Outage:
    """A fault that lasts as long as the context, and what the worker says of it."""

    fault: Callable[[Scene], AbstractAsyncContextManager[None]]
    #: A line of the log.
    says: str
    #: The worker is not ready meanwhile; else it may be so, now and then.
    unready: bool = True
    #: The worker is a user of its own, which Redis forgets when it is restarted.
    user: str = ""
    #: Health and topology name Redis; else it is over before they can, and only counted.
    named: bool = True


@asynccontextmanager
async def stopped(scene: Scene) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.servers.stop_redis)
    yield
    await asyncio.to_thread(scene.servers.start_redis)


@asynccontextmanager
async def killed(scene: Scene) -> AsyncIterator[None]:
    scene.publish(len(scene.log.entries) // 6)
    await asyncio.to_thread(scene.servers.kill_redis)
    yield
    await asyncio.to_thread(scene.servers.start_redis)


@asynccontextmanager
async def frozen(scene: Scene) -> AsyncIterator[None]:
    pid = scene.servers.redis.running_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def configured(**options: str) -> Callable[[Scene], AbstractAsyncContextManager[None]]:
    """Options that Redis is given, with entries published just before, and then as they were."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        with scene.ground.redis() as client:
            before = {name: client.config_get(name)[name] for name in options}
        with scene.frozen_worker():
            scene.publish(len(scene.log.entries) // 3)
            with scene.ground.redis() as client:
                for name, value in options.items():
                    client.config_set(name, value)
        try:
            yield
        finally:
            with scene.ground.redis() as client:
                for name, value in before.items():
                    client.config_set(name, value)

    return fault


@asynccontextmanager
async def write_paused(scene: Scene) -> AsyncIterator[None]:
    scene.publish(len(scene.log.entries) // 6)
    with scene.ground.redis() as client:
        client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        yield
    finally:
        with scene.ground.redis() as client:
            client.execute_command("CLIENT", "UNPAUSE")


@asynccontextmanager
async def packets_swallowed(scene: Scene) -> AsyncIterator[None]:
    scene.redis_proxy.is_blackhole = True
    yield
    scene.redis_proxy.is_blackhole = False


@asynccontextmanager
async def slow(scene: Scene) -> AsyncIterator[None]:
    """Slower than the worker waits."""
    scene.redis_proxy.delay_s = 1.5
    yield
    scene.redis_proxy.delay_s = 0.0


@asynccontextmanager
async def connections_cut(scene: Scene) -> AsyncIterator[None]:
    for _ in range(5):
        scene.publish(len(scene.log.entries) // 30)
        scene.redis_proxy.cut()
        await asyncio.sleep(0.05)  # the time between two cuts
    yield


def called(name: str) -> bytes:
    """What a script of ours is called by: no XADD goes over the line on its own, and no XACK."""
    return sha1(script(name).encode(), usedforsecurity=False).hexdigest().encode()


def answers_lost(
    request: bytes, reply: bytes = b""
) -> Callable[[Scene], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        scene.redis_proxy.lose_replies(request, reply, times=3)
        yield
        await eventually(lambda: scene.redis_proxy.lost_replies >= 1, what="a lost answer")

    return fault


@asynccontextmanager
async def of_another_type(scene: Scene) -> AsyncIterator[None]:
    key = f"{PREFIX}capsules:2"
    with scene.ground.redis() as client:
        client.set(key, "no stream")
    yield
    with scene.ground.redis() as client:
        client.delete(key)


def forbidden(command: str) -> Callable[[Scene], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        with scene.ground.redis() as client:
            client.execute_command("ACL", "SETUSER", USER, f"-{command}")
        yield
        with scene.ground.redis() as client:
            client.execute_command("ACL", "SETUSER", USER, f"+{command}")

    return fault


@asynccontextmanager
async def source_group_destroyed(scene: Scene) -> AsyncIterator[None]:
    with scene.ground.redis() as client:
        client.xgroup_destroy(SOURCE, GROUP)
    yield


OUTAGES = {
    "it is stopped and started": Outage(stopped, "fleet_retry"),
    "it is killed and has its data again": Outage(killed, "fleet_retry"),
    "it has no memory left": Outage(configured(maxmemory="1"), "fleet_retry"),
    "too few replicas are there": Outage(
        configured(**{"min-replicas-to-write": "1"}), "fleet_retry"
    ),
    "it is frozen": Outage(frozen, "fleet_retry"),
    "its writes are paused": Outage(write_paused, "fleet_retry"),
    "packets are swallowed": Outage(packets_swallowed, "fleet_retry"),
    "it is slower than the worker waits": Outage(slow, "fleet_retry"),
    "all connections are cut again and again": Outage(
        connections_cut, "broker_unavailable", unready=False, named=False
    ),
    "answers to what appends are lost": Outage(
        answers_lost(called("append_bundles")), "stage_retry", unready=False, named=False
    ),
    "answers to XREADGROUP are lost": Outage(
        answers_lost(b"XREADGROUP", b"payload"), "broker_unavailable", unready=False, named=False
    ),
    "answers to what acknowledges the source are lost": Outage(
        answers_lost(called("position_ack")), "ack_retry", unready=False, named=False
    ),
    "answers to what acknowledges ours are lost": Outage(
        answers_lost(called("ack_bundles")), "ack_retry", unready=False, named=False
    ),
    "a stream of ours is of another type": Outage(
        of_another_type, "broker_unavailable", unready=False
    ),
    "the right to XADD is taken away": Outage(
        forbidden("xadd"), "stage_retry", unready=False, user=USER_IN_URL
    ),
    "the right to XACK is taken away": Outage(
        forbidden("xack"), "ack_retry", unready=False, user=USER_IN_URL
    ),
    "the right to XREADGROUP is taken away": Outage(
        forbidden("xreadgroup"), "broker_unavailable", unready=False, user=USER_IN_URL
    ),
    "the group at the source is destroyed": Outage(
        source_group_destroyed, "group_lost", unready=False, named=False
    ),
}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
async def test_redis_recovers_and_so_does_the_worker_when(
    servers: EphemeralServers, ground: Ground, tmp_path: Path, outage: Outage
) -> None:
    with ground.redis() as client:
        client.execute_command(
            "ACL", "SETUSER", USER, "reset", "on", ">secret", "~*", "&*", "+@all"
        )
    async with hold_scene(servers, ground, tmp_path, redis_user=outage.user) as scene:
        before, failed = scene.said(), await counted(scene.worker)
        async with outage.fault(scene):
            began = monotonic()
            if not outage.unready:
                scene.publish(len(scene.log.entries) // 3)
            if outage.named:
                await is_named(scene.worker, CULPRIT, began=began)
            await scene.says(outage.says, before)
            if outage.unready:
                await scene.is_ready(expected=False)
        if not outage.named:
            await is_counted(scene.worker, CULPRIT, before=failed)
        scene.publish()
        await scene.all_done()
        await scene.is_ready()
        await scene.close_account()


async def test_redis_is_not_there_yet_when_the_worker_starts(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    servers.stop_redis()
    async with hold_scene(servers, ground, tmp_path, start=False) as scene:
        await scene.worker.wait_for("waiting_for_server")
        assert not scene.ready_file.exists()
        await asyncio.to_thread(servers.start_redis)
        scene.publish()
        await scene.is_ready()
        await scene.all_done()
        await scene.close_account()


async def test_a_redis_that_is_far_away_costs_time_and_no_partition(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    settings = {"CAPSULES_PARTITIONS": "16", "CAPSULES_LEASE_S": "2"}
    async with hold_scene(servers, ground, tmp_path, settings=settings, start=False) as scene:
        scene.redis_proxy.delay_s = 0.06  # by one partition after another it were four seconds
        scene.publish()
        await scene.is_ready()
        await scene.all_done()
        assert scene.said()["partition_lost"] == 0
        await scene.close_account()


async def test_a_replica_takes_over_with_everything(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    replica = Node(tmp_path / "replica")
    with running(replica), client_of(replica) as at_replica:
        at_replica.execute_command("REPLICAOF", "127.0.0.1", servers.redis.port)
        await eventually(
            lambda: at_replica.info("replication")["master_link_status"] == "up", what="a replica"
        )
        async with hold_scene(servers, ground, tmp_path) as scene:
            before, failed = scene.said(), await counted(scene.worker)
            with closing(psycopg2.connect(ground.database_url)) as connection:
                # Something is in hand, and nothing is being written, when the primary dies.
                with connection.cursor() as cursor:
                    cursor.execute("lock table sandboxes in access exclusive mode")
                scene.publish(len(scene.log.entries) // 3)
                await scene.says("stage_retry", before)
                with ground.redis() as client:
                    assert client.wait(1, 5000) == 1
                servers.kill_redis()
                at_replica.execute_command("REPLICAOF", "NO", "ONE")
                scene.redis_proxy.target_port = replica.port
            ground.redis_url = replica.url()
            assert (await counted(scene.worker) - failed)[CULPRIT]
            scene.publish()
            await scene.all_done()
            await scene.is_ready()
            await scene.close_account()


async def test_redis_comes_back_empty_and_what_nobody_had_read_is_lost_and_nothing_else(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    async with hold_scene(servers, ground, tmp_path) as scene:
        before, failed = scene.said(), await counted(scene.worker)
        first = scene.published
        scene.published += len(scene.log.entries) // 3
        entries = scene.log.entries[first : scene.published]
        with ground.redis() as client:
            # All at once: not one of them gets to a worker that waits for it.
            at_once = client.pipeline(transaction=True)
            for entry_id, payload in entries:
                at_once.xadd(SOURCE, {"payload": payload or b""}, id=entry_id)
            at_once.flushall()
            at_once.execute()
        lost = [entry_id for entry_id, _ in entries]
        await scene.says("stream_recreated", before)
        await is_counted(scene.worker, CULPRIT, before=failed)
        scene.publish()
        await scene.all_done()
        await scene.is_ready()
        ends = await scene.close_account(lost=lost)
        assert ends["lost"] == len(lost)
