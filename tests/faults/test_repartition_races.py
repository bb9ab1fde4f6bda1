"""`repartition` and a worker at the same moment: one of the two gives way."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.test_repartition import (
    CAPSULE,
    TOPICS,
    recorded,
    refusal,
    repartition,
    worked_once,
)
from tests.reconciliation import PREFIX, Ground
from tests.worker_process import WorkerProcess, eventually


async def test_a_frozen_worker_that_wakes_up_with_the_old_number_takes_nothing(
    ground: Ground, tmp_path: Path
) -> None:
    worker = WorkerProcess(tmp_path / "first", **ground.settings())
    await worker.wait_for("partitions_taken")
    worker.signal(signal.SIGSTOP)
    assert repartition(ground, tmp_path, "--partitions=5", "--yes").returncode == 0
    worker.signal(signal.SIGCONT)
    assert await worker.ended() != 0
    with ground.redis() as client:
        assert client.hgetall(f"{PREFIX}fleet:owners") == {}
    log = worker.log_path.read_text(encoding="utf-8")
    assert "topic capsules has 5 partitions in Redis and 16" in log


async def test_a_worker_takes_no_partition_once_another_number_is_recorded(
    ground: Ground, tmp_path: Path
) -> None:
    worker = WorkerProcess(tmp_path, **ground.settings())
    await worker.wait_for("partitions_taken")
    with ground.redis() as client:
        # As for a worker that had compared the number just before it was changed.
        client.hset(TOPICS, "capsules", 5)
        client.hdel(f"{PREFIX}fleet:owners", "capsules:3")
        assert await worker.ended() != 0
        assert client.hgetall(f"{PREFIX}fleet:owners") == {}
    log = worker.log_path.read_text(encoding="utf-8")
    assert "topic capsules has 5 partitions in Redis and 16" in log


@pytest.mark.parametrize("sign", ["a beat", "an entry"])
async def test_a_sign_of_life_during_the_change_stops_it(
    ground: Ground, tmp_path: Path, sign: str
) -> None:
    await worked_once(ground, tmp_path)
    with ground.redis() as client:
        # A member that is silent until the command has looked long enough, and then is not.
        client.hset(f"{PREFIX}fleet:members", "t", '{"worker":"late","readable":[],"reader":""}')
        client.hset(f"{PREFIX}fleet:beats", "t", 1)
        # Each entry makes the copying longer, so that there is time for the beat.
        pipeline = client.pipeline(transaction=False)
        for _ in range(30_000):
            pipeline.xadd(f"{PREFIX}capsules:2", {"k": CAPSULE})
        pipeline.execute()
        running = asyncio.create_task(
            asyncio.to_thread(repartition, ground, tmp_path, "--partitions=5", "--move", "--yes")
        )
        await eventually(lambda: client.keys(f"{PREFIX}repartition:*"), what="copying")
        if sign == "a beat":
            client.hincrby(f"{PREFIX}fleet:beats", "t", 1)
        else:
            client.xadd(f"{PREFIX}capsules:9", {"k": CAPSULE})
        assert "meanwhile" in refusal(await running)
        assert client.xlen(f"{PREFIX}capsules:2") == 30_000
        assert client.keys(f"{PREFIX}repartition:*") == []
    assert recorded(ground) == {"capsules": 16}
