"""A worker that dies at any moment leaves nothing undone and nothing done twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.event_log import generate
from tests.faults.account import assert_accounted, settled
from tests.reconciliation import PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

KILLS = 5


def steps_done(ground: Ground) -> int:
    """A count that grows with all that workers do: entries read at any stage."""
    total = 0
    with ground.redis() as client:
        for key in [SOURCE.encode(), *client.scan_iter(f"{PREFIX}*:[0-9]*", _type="stream")]:
            total += sum(info["entries-read"] or 0 for info in client.xinfo_groups(key))
    return total


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("seed", "loop"), [(1, "aio"), (2, "aio"), (3, "uvloop")])
async def test_a_worker_killed_five_times_ends_as_the_oracle_says(
    ground: Ground, tmp_path: Path, seed: int, loop: str
) -> None:
    rng = random.Random(seed)
    log = generate(seed, events=6_000, capsules=500)
    ground.load(log.rows)
    share = len(log.entries) // (KILLS + 1)
    async with Receiver() as receiver:
        settings = ground.settings(**receiver.settings())
        for kill in range(KILLS):
            worker = WorkerProcess(tmp_path, loop=loop, **settings)
            ground.publish(log.entries[kill * share : (kill + 1) * share])
            moment = steps_done(ground) + rng.randrange(1, share)
            await eventually(
                lambda moment=moment: steps_done(ground) >= moment,  # type: ignore[misc]
                what=f"step {moment}",
            )
            worker.kill()
        ground.publish(log.entries[KILLS * share :])
        worker = WorkerProcess(tmp_path, loop=loop, **settings)
        await eventually(lambda: settled(ground), what="all done", timeout_s=90)
        assert await worker.stop() == 0
        assert_accounted(ground, log, receiver)
