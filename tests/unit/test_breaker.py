"""The breaker: open after failures in a row, one probe at a time, closed by a success."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from agents.breaker import Breaker, Permit
from streams.errors import DeliveryError, DeliveryRefusedError
from streams.figures.sink_meter import SinkMeter

FAILED = DeliveryError("HTTP 503")
PAUSE_S = 0.05


def breaker(pause_s: float = PAUSE_S) -> tuple[Breaker, SinkMeter]:
    meter = SinkMeter("billing")
    return Breaker(meter, failures=3, pause_s=pause_s), meter


def attempt(breaker: Breaker, failure: DeliveryError | None) -> None:
    permit = breaker.permit()
    assert permit is not None
    breaker.ended(permit, failure)


def opened(pause_s: float = PAUSE_S) -> tuple[Breaker, SinkMeter]:
    found, meter = breaker(pause_s)
    for _ in range(3):
        attempt(found, FAILED)
    return found, meter


async def probe(breaker: Breaker) -> Permit:
    """Wait until the breaker may be probed; nothing else may go meanwhile."""
    async with asyncio.timeout(5):
        await breaker.wait()
    permit = breaker.permit()
    assert permit is not None
    assert permit.is_probe
    return permit


async def test_failures_in_a_row_open_it_and_nothing_may_go() -> None:
    found, meter = opened(pause_s=60)
    assert meter.breaker_is_open
    assert meter.breaker_openings == 1
    assert found.permit() is None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(found.wait(), 0.01)


@pytest.mark.parametrize("other", [None, DeliveryRefusedError("HTTP 410")])
async def test_failures_with_another_end_between_them_do_not(other: DeliveryError | None) -> None:
    found, meter = breaker()
    for failure in (FAILED, FAILED, other, FAILED, FAILED):
        attempt(found, failure)
    assert not meter.breaker_is_open
    assert found.permit() is not None


async def test_one_probe_goes_at_a_time_and_closes_it_when_it_succeeds() -> None:
    found, meter = opened()
    permit = await probe(found)
    assert found.permit() is None
    waiting = asyncio.ensure_future(found.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    found.ended(permit, None)
    await asyncio.wait_for(waiting, 5)
    assert not meter.breaker_is_open
    assert [found.permit() is None for _ in range(2)] == [False, False]


async def test_a_probe_that_fails_keeps_it_open_for_another_pause() -> None:
    found, meter = opened()
    for _ in range(2):
        found.ended(await probe(found), FAILED)
        assert found.permit() is None
    assert meter.breaker_openings == 1
    found.ended(await probe(found), None)
    assert not meter.breaker_is_open


async def test_a_probe_that_was_not_made_is_left_to_the_next_one() -> None:
    found, _ = opened()
    found.unused(await probe(found))
    found.ended(await probe(found), None)
    assert found.permit() is not None


async def test_an_attempt_from_before_ends_as_any_other() -> None:
    found, meter = breaker()
    early = [found.permit() for _ in range(2)]
    for _ in range(3):
        attempt(found, FAILED)
    permit = await probe(found)
    assert early[0] is not None
    found.ended(early[0], FAILED)
    # The pause begins anew, and the probe is still the only one.
    await asyncio.sleep(PAUSE_S * 2)
    assert found.permit() is None
    found.ended(permit, FAILED)
    assert early[1] is not None
    found.ended(early[1], None)
    assert not meter.breaker_is_open


async def test_a_sink_that_asks_to_be_left_alone_for_longer_is() -> None:
    found, _ = breaker()
    for retry_after_s in (None, 60, None):
        attempt(found, DeliveryError("HTTP 429", retry_after_s=retry_after_s))
    # What it asked for before the breaker was open holds for that delivery alone.
    permit = await probe(found)
    began = monotonic()
    found.ended(permit, DeliveryError("HTTP 429", retry_after_s=0.4))
    found.ended(await probe(found), None)
    assert monotonic() - began >= 0.39
    assert found.permit() is not None
