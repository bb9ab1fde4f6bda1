"""A worker that dies at a step leaves all it had to the next one, which does it once."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from tests.faults.crew import Crew
from tests.worker_process import eventually


@dataclass(frozen=True)
class Death:
    """Where a worker dies: the step, and when it comes to it for this time."""

    step: str
    nth: int = 2


DEATHS = {
    "entries were read and nothing done with them": Death("reading"),
    "half of a batch was routed": Death("routing-half"),
    "a batch was routed and not settled": Death("routed"),
    "a batch was routed and settled, not acknowledged": Death("routed-settled"),
    "a statement is about to be sent": Death("before-statement", 3),
    "a statement has committed": Death("committed", 3),
    "half of a batch was handed to the hooks": Death("handing-half", 3),
    "a batch was handed to the hooks and not settled": Death("handed", 3),
    "a batch is done and not acknowledged": Death("settled", 3),
    "a batch was acknowledged": Death("acknowledged", 3),
    "a sink took a delivery that is not settled": Death("delivered", 30),
    "a delivery is settled and not acknowledged": Death("delivery-settled", 3),
    "a dead letter was sent and its entry not settled": Death("letter-sent", 1),
    "a dead letter was stored and its entry not settled": Death("letter-stored", 1),
    "partitions were acquired and none read": Death("taking", 1),
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())
async def test_a_worker_dies_when(crew: Crew, death: Death) -> None:
    crew.ground.publish(crew.log.entries)
    await crew.dying(death.step, death.nth).died()
    await crew.finish_with(crew.healthy())


@pytest.mark.parametrize("step", ["committed", "reading-pending"])
async def test_two_workers_die_at_the_same_step_one_after_the_other(crew: Crew, step: str) -> None:
    crew.ground.publish(crew.log.entries)
    # Nothing is pending before one has died with something in hand.
    await crew.dying("reading" if step == "reading-pending" else step, 2).died()
    await crew.dying(step, 1).died()
    await crew.finish_with(crew.healthy())


@pytest.mark.parametrize("step", ["giving-up", "given-up"])
async def test_a_worker_dies_while_it_gives_partitions_to_one_that_joins(
    crew: Crew, step: str
) -> None:
    dying = crew.dying(step, 2)
    await dying.wait_for("partitions_taken")
    joins = crew.healthy()
    crew.ground.publish(crew.log.entries)
    await dying.died()
    await crew.finish_with(joins)


@pytest.mark.parametrize("step", ["leaving", "left", "closing"])
async def test_a_worker_dies_while_it_stops(crew: Crew, step: str) -> None:
    dying, stays = crew.dying(step, 1), crew.healthy()
    await eventually(lambda: len(crew.ground.shares()) == 2, what="two workers")
    crew.ground.publish(crew.log.entries)
    dying.signal(signal.SIGTERM)
    await dying.died()
    await crew.finish_with(stays)
