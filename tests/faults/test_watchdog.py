"""Where only a restart helps, a worker says so and ends; its successor does what is left."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.faults.crew import Crew
from tests.worker_process import eventually


@pytest.mark.parametrize("end", ["raise", "cancel"])
async def test_a_worker_whose_agent_has_ended_ends(crew: Crew, end: str) -> None:
    crew.ground.publish(crew.log.entries)
    broken = crew.dying("dispatching", 3, end=end)
    assert await broken.ended() == 1
    assert broken.said("worker_broken")
    await crew.finish_with(crew.healthy())


@pytest.mark.parametrize("step", ["reading", "taking"])
async def test_a_worker_whose_reader_or_coordinator_raises_ends(crew: Crew, step: str) -> None:
    crew.ground.publish(crew.log.entries)
    broken = crew.dying(step, 1, end="raise")
    assert await broken.ended() == 1
    assert "as a test wants it" in broken.log_path.read_text(encoding="utf-8")
    await crew.finish_with(crew.healthy())


async def test_a_worker_whose_event_loop_does_not_turn_says_where_it_stands_and_ends(
    crew: Crew,
) -> None:
    crew.ground.publish(crew.log.entries)
    broken = crew.dying("dispatching", 3, end="block", CAPSULES_STALL_AFTER_S="1")
    await broken.wait_for("loop_blocked", timeout_s=20)
    (record,) = [r for r in broken.records() if r.get("action") == "loop_blocked"]
    assert "time.sleep(600)" in record["stack"]
    assert await broken.ended() == 1
    assert broken.said("worker_broken")
    await crew.finish_with(crew.healthy())


async def test_a_worker_that_makes_no_progress_says_so_and_is_not_ready(crew: Crew) -> None:
    ready_file = crew.directory / "ready"
    crew.ground.publish(crew.log.entries)
    stuck = crew.dying(
        "dispatching",
        3,
        end="hang",
        CAPSULES_STALL_AFTER_S="2",
        CAPSULES_READY_FILE=str(ready_file),
    )
    await stuck.wait_for("stalled", timeout_s=20)
    await eventually(lambda: not ready_file.exists(), what="not ready")
    (record,) = [r for r in stuck.records() if r.get("action") == "stalled"]
    assert record["in_hand"]["capsules"] > 0
    stuck.kill()
    await crew.finish_with(crew.healthy())


async def test_a_worker_that_was_frozen_as_a_whole_is_not_taken_for_blocked(crew: Crew) -> None:
    frozen = crew.healthy()
    await frozen.wait_for("partitions_taken")
    frozen.signal(signal.SIGSTOP)
    crew.ground.publish(crew.log.entries)
    await asyncio.sleep(6)  # longer than what is taken for a blocked loop
    frozen.signal(signal.SIGCONT)
    await crew.finish_with(frozen)
    assert not frozen.said("loop_blocked")
