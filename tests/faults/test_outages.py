"""Servers that go away and come back under load: nothing lost, nothing twice, no restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from config.embedded import EphemeralServers
from tests.event_log import EventLog, generate
from tests.faults.account import assert_accounted, settled
from tests.reconciliation import Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

EVENTS = 6_000


@pytest.fixture
def log() -> EventLog:
    return generate(21, events=EVENTS, capsules=500)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def worker(
    ground: Ground, receiver: Receiver, tmp_path: Path
) -> AsyncIterator[WorkerProcess]:
    settings = {"CAPSULES_LOCK_TIMEOUT_MS": "300", "CAPSULES_STATEMENT_TIMEOUT_MS": "1000"}
    worker = WorkerProcess(tmp_path, **ground.settings(**receiver.settings(), **settings))
    await worker.wait_for("partitions_taken")
    yield worker
    if worker.process.poll() is None:
        worker.kill()


async def midway(receiver: Receiver, fault: Callable[[], None]) -> None:
    """Wait until part of the work has gone all the way, and let `fault` happen."""
    moment = len(receiver.arrivals) + EVENTS // 25
    await eventually(lambda: len(receiver.arrivals) >= moment, what="some work done")
    await asyncio.to_thread(fault)


async def finish(ground: Ground, worker: WorkerProcess, receiver: Receiver, log: EventLog) -> None:
    """Let the worker finish, and account for each entry."""
    await eventually(lambda: settled(ground), what="all done", timeout_s=90)
    assert await worker.stop() == 0
    assert_accounted(ground, log, receiver)


async def test_postgres_crashing_under_load(
    servers: EphemeralServers,
    ground: Ground,
    worker: WorkerProcess,
    receiver: Receiver,
    log: EventLog,
) -> None:
    def crash() -> None:
        servers.stop_postgres("immediate")
        servers.start_postgres()

    ground.load(log.rows)
    ground.publish(log.entries)
    for _ in range(3):
        await midway(receiver, crash)
    await finish(ground, worker, receiver, log)
    assert worker.said("stage_retry")


async def test_deadlocks_with_somebody_elses_transactions(
    ground: Ground, worker: WorkerProcess, receiver: Receiver, log: EventLog
) -> None:
    ids = sorted(map(str, log.rows))
    over = asyncio.Event()

    def cross() -> None:
        # The control plane's own transactions, in the order that hurts.
        with closing(psycopg2.connect(ground.database_url)) as connection:
            for start in range(0, len(ids) - 20, 20):
                try:
                    with connection, connection.cursor() as cursor:
                        for capsule in reversed(ids[start : start + 20]):
                            cursor.execute(
                                "update sandboxes set memory_mb = 1 where id = %s", (capsule,)
                            )
                except psycopg2.errors.DeadlockDetected:
                    continue

    async def keep_crossing() -> None:
        while not over.is_set():
            await asyncio.to_thread(cross)

    ground.load(log.rows)
    ground.publish(log.entries)
    crossing = asyncio.create_task(keep_crossing())
    try:
        await eventually(ground.drained, what="all done", timeout_s=90)
    finally:
        over.set()
        await crossing
    await finish(ground, worker, receiver, log)


async def test_redis_crashing_under_load(
    servers: EphemeralServers,
    ground: Ground,
    worker: WorkerProcess,
    receiver: Receiver,
    log: EventLog,
) -> None:
    def crash() -> None:
        servers.kill_redis()
        servers.start_redis()

    ground.load(log.rows)
    ground.publish(log.entries)
    for _ in range(3):
        await midway(receiver, crash)
    await finish(ground, worker, receiver, log)


async def test_redis_cutting_all_connections_under_load(
    ground: Ground, worker: WorkerProcess, receiver: Receiver, log: EventLog
) -> None:
    def cut() -> None:
        with ground.redis() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    ground.load(log.rows)
    share = -(-len(log.entries) // 8)
    for start in range(0, len(log.entries), share):
        ground.publish(log.entries[start : start + share])
        await midway(receiver, cut)
    await finish(ground, worker, receiver, log)
