"""The gate: no more attempts than the sink's settings allow."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from agents.gate import Gate
from config.settings import DeliverySettings
from streams.figures.sink_meter import SinkMeter


async def attempts_in(gate: Gate, seconds: float, *, couriers: int = 8) -> int:
    """How many attempts pass in so many seconds, when all that can go does."""
    made = 0

    async def courier() -> None:
        nonlocal made
        while True:
            gate.ended(await gate.enter(), None)
            made += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(courier()) for _ in range(couriers)]
    began = monotonic()
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    # What could have passed until now, and not what somebody asked for.
    assert monotonic() - began >= seconds
    return made


async def test_each_worker_has_the_part_of_the_rate_that_it_has_of_the_partitions() -> None:
    share = 0.5
    settings = DeliverySettings(name="billing", rate_limit_per_s=200)
    gate = Gate(SinkMeter("billing"), settings, share=lambda: share)
    gate.resume()
    began = monotonic()
    made = await attempts_in(gate, 0.5)
    most = 100 * (monotonic() - began) + 10
    assert 10 < made <= most
    # It has taken over what another one had.
    share = 1.0
    began = monotonic()
    more = await attempts_in(gate, 0.5)
    most = 200 * (monotonic() - began) + 20
    assert made < more <= most


async def test_a_rate_of_less_than_one_a_second_lets_the_first_go_at_once() -> None:
    settings = DeliverySettings(name="billing", rate_limit_per_s=0.01)
    gate = Gate(SinkMeter("billing"), settings, share=lambda: 0.0)
    gate.resume()
    assert await attempts_in(gate, 0.1) == 1


async def test_nothing_passes_while_it_is_paused_or_not_known_to_run() -> None:
    gate = Gate(SinkMeter("billing"), DeliverySettings(name="billing"), share=lambda: 1.0)
    assert await attempts_in(gate, 0.02) == 0
    gate.resume()
    assert await attempts_in(gate, 0.02) > 0
    gate.pause(for_s=0)
    assert await attempts_in(gate, 0.02) == 0
    gate.resume()
    assert await attempts_in(gate, 0.02) > 0


async def test_who_waits_for_the_rate_limit_is_paused_as_well() -> None:
    settings = DeliverySettings(name="billing", rate_limit_per_s=20)
    gate = Gate(SinkMeter("billing"), settings, share=lambda: 1.0)
    gate.resume()
    made = [await gate.enter(), await gate.enter()]  # as many as may go at once
    waiting = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    gate.pause(for_s=0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.2)
    gate.resume()
    assert await asyncio.wait_for(waiting, 5) not in made
