"""How a worker stops: what it has started is finished, the rest is somebody else's."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import psycopg2

from tests.event_log import generate
from tests.oracle import replay
from tests.reconciliation import Ground, Receiver, assert_same
from tests.worker_process import WorkerProcess, eventually


async def test_a_worker_stopped_under_load_loses_nothing_and_repeats_nothing(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(11, events=10_000, capsules=500)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    async with Receiver() as receiver:
        settings = ground.settings(**receiver.settings())
        first = WorkerProcess(tmp_path / "first", **settings)
        await first.wait_for("partitions_taken")
        ground.publish(log.entries)
        await eventually(lambda: len(receiver.arrivals) > 100, what="deliveries")
        assert await first.stop() == 0
        assert first.said("fleet_left")
        assert not first.said("drain_timeout")
        assert not ground.drained()
        second = WorkerProcess(tmp_path / "second", **settings)
        await eventually(ground.drained, what="all done", timeout_s=60)
        assert await second.stop() == 0
        assert_same(ground.outcome(receiver), expected)
        # What was under way was finished and acknowledged, so nothing had to be done again.
        assert len(receiver.arrivals) == sum(map(len, expected.deliveries.values()))


async def test_what_a_stopped_worker_held_is_taken_at_once(ground: Ground, tmp_path: Path) -> None:
    settings = ground.settings(CAPSULES_LEASE_S="5")
    first = WorkerProcess(tmp_path / "first", **settings)
    await first.wait_for("partitions_taken")
    second = WorkerProcess(tmp_path / "second", **settings)
    await second.wait_for("partitions_taken")
    assert await first.stop() == 0
    await eventually(lambda: ground.shares() == [18], what="all taken", timeout_s=1.5)
    assert await second.stop() == 0
    assert ground.shares() == []


async def test_a_second_signal_does_not_wait_for_a_statement_that_hangs(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(12, events=2_000, capsules=50)
    ground.load(log.rows)
    worker = WorkerProcess(tmp_path, **ground.settings(CAPSULES_DRAIN_TIMEOUT_S="600"))
    await worker.wait_for("partitions_taken")
    with closing(psycopg2.connect(ground.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("lock table sandboxes in access exclusive mode")
        ground.publish(log.entries)
        await worker.wait_for("stage_retry")
        worker.signal(signal.SIGTERM)
        await eventually(lambda: "Signal received" in worker.tail(), what="the first signal seen")
        worker.signal(signal.SIGTERM)
        assert await worker.ended(timeout_s=5) == 1


async def test_a_stop_gives_up_what_hangs_after_the_drain_time(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(13, events=2_000, capsules=50)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    worker = WorkerProcess(tmp_path / "first", **ground.settings(CAPSULES_DRAIN_TIMEOUT_S="1"))
    await worker.wait_for("partitions_taken")
    with closing(psycopg2.connect(ground.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("lock table sandboxes in access exclusive mode")
        ground.publish(log.entries)
        await worker.wait_for("stage_retry")
        assert await worker.stop(timeout_s=15) == 0
        assert worker.said("drain_timeout")
    successor = WorkerProcess(tmp_path / "second", **ground.settings())
    await eventually(ground.drained, what="all done", timeout_s=60)
    assert await successor.stop() == 0
    expected.deliveries.clear()
    assert_same(ground.outcome(), expected)


async def test_sigusr2_does_not_freeze_a_worker(ground: Ground, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path, **ground.settings())
    await worker.wait_for("partitions_taken")
    worker.signal(signal.SIGUSR2)
    await worker.wait_for("signal_ignored")
    assert await worker.stop() == 0
