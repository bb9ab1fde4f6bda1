"""The ready file: fresh while a worker does its work, or would, and else not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from config.embedded import EphemeralServers
from tests.event_log import generate
from tests.reconciliation import Ground
from tests.worker_process import WorkerProcess, eventually


@pytest.fixture
def ready_file(tmp_path: Path) -> Path:
    return tmp_path / "ready"


def age_file(ready_file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # which is not fresh either
        os.utime(ready_file, times=(1, 1))


def is_fresh(ready_file: Path) -> bool:
    return ready_file.exists() and ready_file.stat().st_mtime > 1


async def stays_old(ready_file: Path) -> None:
    """Three times as long as a working worker would leave it."""
    age_file(ready_file)
    with pytest.raises(AssertionError, match="touched"):
        await eventually(lambda: is_fresh(ready_file), what="touched", timeout_s=3)


async def test_a_worker_touches_the_file_again_and_again_and_removes_it_when_it_stops(
    ground: Ground, ready_file: Path, tmp_path: Path
) -> None:
    worker = WorkerProcess(tmp_path, **ground.settings(CAPSULES_READY_FILE=str(ready_file)))
    await eventually(lambda: is_fresh(ready_file), what="ready")
    age_file(ready_file)
    await eventually(lambda: is_fresh(ready_file), what="touched again", timeout_s=3)
    assert await worker.stop() == 0
    assert not is_fresh(ready_file)


async def test_what_a_killed_process_has_left_says_nothing_about_the_next(
    ground: Ground, ready_file: Path, tmp_path: Path
) -> None:
    settings = ground.settings(CAPSULES_READY_FILE=str(ready_file), CAPSULES_LEASE_S="1")
    first = WorkerProcess(tmp_path / "first", **settings)
    await eventually(ready_file.exists, what="ready")
    first.kill()
    second = WorkerProcess(tmp_path / "second", **settings)
    await eventually(lambda: not ready_file.exists(), what="removed")
    await eventually(ready_file.exists, what="ready again")
    assert await second.stop() == 0


async def test_a_worker_that_drains_is_not_ready(
    ground: Ground, ready_file: Path, tmp_path: Path
) -> None:
    log = generate(41, events=200, capsules=20)
    ground.load(log.rows)
    worker = WorkerProcess(
        tmp_path,
        **ground.settings(
            CAPSULES_READY_FILE=str(ready_file),
            CAPSULES_DRAIN_TIMEOUT_S="5",
            CAPSULES_LOCK_TIMEOUT_MS="200",
        ),
    )
    await eventually(ready_file.exists, what="ready")
    with closing(psycopg2.connect(ground.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("lock table sandboxes in access exclusive mode")
        ground.publish(log.entries)
        await worker.wait_for("stage_retry")
        worker.signal(signal.SIGTERM)
        await eventually(lambda: not ready_file.exists(), what="not ready", timeout_s=2)
        assert worker.process.poll() is None
    assert await worker.ended() == 0


async def test_a_worker_without_a_partition_is_ready(
    ground: Ground, ready_file: Path, tmp_path: Path
) -> None:
    settings = ground.settings(CAPSULES_PARTITIONS="1")
    others = [WorkerProcess(tmp_path / str(n), **settings) for n in range(3)]
    await eventually(lambda: ground.shares() == [1, 1, 1], what="three workers with one each")
    spare = WorkerProcess(tmp_path / "spare", **settings, CAPSULES_READY_FILE=str(ready_file))
    await eventually(ready_file.exists, what="ready")
    assert ground.shares() == [0, 1, 1, 1]
    for worker in (spare, *others):
        assert await worker.stop() == 0


async def test_a_worker_whose_statements_fail_is_not_ready_until_one_succeeds(
    servers: EphemeralServers, ground: Ground, ready_file: Path, tmp_path: Path
) -> None:
    log = generate(42, events=200, capsules=20)
    ground.load(log.rows)
    worker = WorkerProcess(tmp_path, **ground.settings(CAPSULES_READY_FILE=str(ready_file)))
    await eventually(ready_file.exists, what="ready")
    servers.stop_postgres("immediate")
    # Nothing was asked of it yet.
    age_file(ready_file)
    await eventually(lambda: is_fresh(ready_file), what="still ready", timeout_s=3)
    ground.publish(log.entries)
    await worker.wait_for("stage_retry")
    await stays_old(ready_file)
    servers.start_postgres()
    await eventually(lambda: is_fresh(ready_file), what="ready again")
    assert await worker.stop() == 0


async def test_a_worker_that_does_not_reach_redis_is_not_ready_until_it_does(
    servers: EphemeralServers, ground: Ground, ready_file: Path, tmp_path: Path
) -> None:
    worker = WorkerProcess(tmp_path, **ground.settings(CAPSULES_READY_FILE=str(ready_file)))
    await eventually(ready_file.exists, what="ready")
    servers.stop_redis()
    await worker.wait_for("partition_lost")
    await stays_old(ready_file)
    servers.start_redis()
    await eventually(lambda: is_fresh(ready_file), what="ready again")
    assert await worker.stop() == 0


async def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(
    ground: Ground, tmp_path: Path
) -> None:
    nowhere = tmp_path / "not a directory"
    nowhere.touch()
    worker = WorkerProcess(tmp_path, **ground.settings(CAPSULES_READY_FILE=str(nowhere / "ready")))
    await worker.wait_for("ready_file_failed")
    await worker.wait_for("partitions_taken")
    log = generate(43, events=200, capsules=20)
    ground.load(log.rows)
    ground.publish(log.entries)
    await eventually(ground.drained, what="all done")
    # The file is tried again each second.
    await asyncio.sleep(2)
    assert await worker.stop() == 0
    assert [r.get("action") for r in worker.records()].count("ready_file_failed") == 1
