"""A worker is frozen past its lease, and wakes up when another one has done its work."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.faults.account import settled
from tests.faults.crew import Crew
from tests.worker_process import eventually

STEPS = {
    "half of a batch was routed": "routing-half",
    "a statement is about to be sent": "before-statement",
    "a batch was handed to the hooks": "handed",
    "a sink took a delivery": "delivered",
    "a batch is about to be acknowledged": "settled",
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
async def test_a_worker_that_was_frozen_changes_nothing_when(crew: Crew, step: str) -> None:
    crew.ground.publish(crew.log.entries)
    frozen = crew.dying(step, 3, end="freeze")
    process = psutil.Process(frozen.process.pid)
    await eventually(lambda: process.status() == psutil.STATUS_STOPPED, what="a frozen worker")
    successor = crew.healthy()
    await eventually(lambda: settled(crew.ground), what="all done", timeout_s=60)
    frozen.signal(signal.SIGCONT)
    await frozen.wait_for("partition_lost")
    assert await frozen.stop() == 0, frozen.tail()
    await crew.finish_with(successor)
