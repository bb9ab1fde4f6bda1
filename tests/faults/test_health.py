"""Health tells the truth in each fault, names the culprit within ten seconds, and recovers."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar

import psycopg2
import pytest

from config.embedded import EphemeralServers
from tests.event_log import generate
from tests.faults.stuck_worker import StuckWorkerModule
from tests.integration.conftest import execute
from tests.integration.watching import WatchedWorker, frozen
from tests.reconciliation import Ground, Receiver
from tests.worker_process import eventually


@contextmanager
def redis_stopped(servers: EphemeralServers) -> Iterator[None]:
    servers.stop_redis()
    try:
        yield
    finally:
        servers.start_redis()


@contextmanager
def redis_frozen(servers: EphemeralServers) -> Iterator[None]:
    with frozen(servers.redis.running_pid()):
        yield


@contextmanager
def postgres_stopped(servers: EphemeralServers) -> Iterator[None]:
    servers.stop_postgres("immediate")
    try:
        yield
    finally:
        servers.start_postgres()


@contextmanager
def postgres_frozen(servers: EphemeralServers) -> Iterator[None]:
    with frozen(servers.postgres.running_pid()):
        yield


@contextmanager
def postgres_read_only(servers: EphemeralServers) -> Iterator[None]:
    execute(
        servers.database_url,
        "alter system set default_transaction_read_only = on",
        "select pg_reload_conf()",
    )
    try:
        yield
    finally:
        execute(
            servers.database_url,
            "set default_transaction_read_only = off",
            "alter system reset default_transaction_read_only",
            "select pg_reload_conf()",
        )


FAULTS = {
    "redis-stopped": (redis_stopped, "redis"),
    "redis-frozen": (redis_frozen, "redis"),
    "postgres-stopped": (postgres_stopped, "postgres"),
    "postgres-frozen": (postgres_frozen, "postgres"),
    "postgres-read-only": (postgres_read_only, "postgres"),
}


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_server_that_is_away_is_named_and_no_reason_for_a_restart(
    servers: EphemeralServers, ground: Ground, tmp_path: Path, fault: str, is_busy: bool
) -> None:
    away, culprit = FAULTS[fault]
    log = generate(71, events=400, capsules=40)
    ground.load(log.rows)
    # A worker that stands still for a moment is not to lose its lease by that alone.
    worker = WatchedWorker(tmp_path, **ground.settings(CAPSULES_LEASE_S="10"))
    await worker.answers("/readyz", 200, timeout_s=30)
    if is_busy and culprit == "postgres":
        with away(servers):
            ground.publish(log.entries)
            found = await worker.answers("/readyz", 503, blaming=culprit)
            alive, _ = await worker.ask("/healthz")
    else:
        if is_busy:
            ground.publish(log.entries)
        with away(servers):
            found = await worker.answers("/readyz", 503, blaming=culprit)
            alive, _ = await worker.ask("/healthz")
    assert alive == 200
    others = {reason["culprit"] for reason in found["reasons"]} - {culprit}
    assert others == set(), "only who is away is named"
    found = await worker.answers("/readyz", 200, timeout_s=20)
    assert found["reasons"] == []
    await eventually(ground.drained, what="all done")
    assert await worker.stop() == 0


@pytest.mark.parametrize("how", ["refuses", "silent"])
async def test_a_sink_that_is_away_is_named_and_makes_no_worker_unready(
    ground: Ground, tmp_path: Path, how: str
) -> None:
    log = generate(72, events=200, capsules=20)
    ground.load(log.rows)
    async with Receiver() as receiver:
        sinks = json.loads(receiver.settings()["CAPSULES_SINKS"])
    # Nobody is there any more; the other address takes connections and never answers.
    with closing(_deaf()) as deaf:
        if how == "silent":
            sinks[0]["url"] = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        worker = WatchedWorker(tmp_path, **ground.settings(CAPSULES_SINKS=json.dumps(sinks)))
        await worker.answers("/readyz", 200, timeout_s=30)
        ground.publish(log.entries)
        found = await worker.answers("/readyz", 200, blaming="sink.receiver")
        assert {reason["culprit"] for reason in found["reasons"]} == {"sink.receiver"}
        assert found["ready"]
        alive, _ = await worker.ask("/healthz")
        assert alive == 200
        up = (await worker.scrape())["capsules_component_up"]
        assert up[frozenset({("component", "sink.receiver")})] == 0
        assert up[frozenset({("component", "postgres")})] == 1
        assert await worker.stop() == 0


def _deaf() -> socket.socket:
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(64)
    return deaf


class StuckWorker(WatchedWorker, StuckWorkerModule):
    """A worker with a fault in a stage, that can be asked."""

    module: ClassVar[str] = StuckWorkerModule.module


async def test_a_stage_that_is_stuck_by_itself_is_named_and_a_reason_for_a_restart(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(73, events=200, capsules=20)
    ground.load(log.rows)
    worker = StuckWorker(
        tmp_path,
        **ground.settings(
            CAPSULES_STATEMENT_TIMEOUT_MS="1000",
            CAPSULES_STALL_AFTER_S="2",
            CAPSULES_DRAIN_TIMEOUT_S="1",
        ),
    )
    await worker.answers("/healthz", 200, timeout_s=30)
    ground.publish(log.entries)
    found = await worker.answers("/healthz", 503, blaming="pause", timeout_s=15)
    assert {reason["culprit"] for reason in found["reasons"]} == {"pause"}
    status, _ = await worker.ask("/readyz")
    assert status == 503
    worker.kill()


@pytest.mark.alone  # how soon is part of it
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_worker_that_is_gone_is_named_by_the_others_before_its_lease_is_over(
    ground: Ground, tmp_path: Path, end: signal.Signals
) -> None:
    settings = ground.settings(CAPSULES_LEASE_S="30")
    first, second = (
        WatchedWorker(tmp_path / name, CAPSULES_WORKER_NAME=name, **settings)
        for name in ("first", "second")
    )
    await eventually(lambda: ground.is_shared_by(2), what="shared")
    known: set[str] = set()
    while known != {"first", "second"}:  # a worker may hold something before it says a word
        _, found = await second.ask("/topology.json")
        known = {worker["worker"] for worker in found["workers"]}
    first.signal(end)
    deadline = time.monotonic() + 10
    gone: list[str] = []
    while gone != ["first"]:
        assert time.monotonic() < deadline, gone
        _, found = await second.ask("/topology.json")
        gone = [reason["worker"] for reason in found["reasons"] if reason["culprit"] == "worker"]
    first.kill()
    second.kill()


async def test_a_worker_that_drains_says_so_and_is_alive(ground: Ground, tmp_path: Path) -> None:
    log = generate(74, events=200, capsules=20)
    ground.load(log.rows)
    worker = WatchedWorker(
        tmp_path,
        **ground.settings(CAPSULES_DRAIN_TIMEOUT_S="8", CAPSULES_LOCK_TIMEOUT_MS="200"),
    )
    await worker.answers("/readyz", 200, timeout_s=30)
    with closing(psycopg2.connect(ground.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("lock table sandboxes in access exclusive mode")
        ground.publish(log.entries)
        await worker.wait_for("stage_retry")
        worker.signal(signal.SIGTERM)
        await worker.answers("/readyz", 503, blaming="worker", timeout_s=3)
        alive, _ = await worker.ask("/healthz")
        assert alive == 200
    assert await worker.ended() == 0


async def test_a_worker_for_which_no_partition_is_left_is_ready(
    ground: Ground, tmp_path: Path
) -> None:
    settings = ground.settings(CAPSULES_PARTITIONS="1")
    others = [WatchedWorker(tmp_path / str(n), **settings) for n in range(2)]
    await eventually(lambda: ground.shares() == [1, 2], what="all have a reader")
    third = WatchedWorker(tmp_path / "third", **settings)
    await third.answers("/readyz", 200, timeout_s=30)
    for worker in (third, *others):
        assert await worker.stop() == 0


async def test_probes_ask_each_server_no_more_than_once_a_second(
    ground: Ground, tmp_path: Path
) -> None:
    worker = WatchedWorker(tmp_path, **ground.settings(CAPSULES_LEASE_S="10"))
    await worker.answers("/readyz", 200, timeout_s=30)
    with ground.redis() as client:

        def groups_asked() -> int:
            calls: int = client.info("commandstats")["cmdstat_xinfo|groups"]["calls"]
            return calls

        before, began_s = groups_asked(), time.monotonic()
        for _ in range(200):
            assert (await worker.ask("/readyz"))[0] == 200
        took_s = time.monotonic() - began_s
        # One a second, and one of the reader's own in two; what was under way at the ends.
        assert groups_asked() - before <= 1.5 * took_s + 3
    assert await worker.stop() == 0
