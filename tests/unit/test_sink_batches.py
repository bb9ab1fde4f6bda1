"""Batches go by size or by age, and what becomes of one becomes of each event in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from agents.hooks.adapted import AdaptedSink
from agents.hooks.testing import example_events
from streams.errors import DeliveryError, DeliveryRefusedError
from streams.events import SandboxEvent


class Collector:
    def __init__(self, failure: Exception | None = None) -> None:
        self.batches: list[list[str]] = []
        self.failure = failure
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def on_sandbox_events(self, events: Sequence[SandboxEvent]) -> None:
        self.batches.append([event.delivery_id for event in events])
        self.begun.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


def sink_of(
    collector: Collector, *, max_events: int = 3, max_age_s: float = 3600, timeout_s: float = 5
) -> AdaptedSink:
    return AdaptedSink(
        "b",
        collector,
        timeout_s=timeout_s,
        batch_max_events=max_events,
        batch_max_age_s=max_age_s,
    )


def ids(events: Sequence[SandboxEvent]) -> list[str]:
    return [event.delivery_id for event in events]


async def test_a_full_batch_goes_at_once() -> None:
    collector, events = Collector(), example_events(6)
    sink = sink_of(collector)
    async with asyncio.timeout(5):
        await asyncio.gather(*(sink.on_sandbox_event(event) for event in events))

    assert collector.batches == [ids(events[:3]), ids(events[3:])]


async def test_a_batch_that_does_not_fill_goes_when_it_is_old_enough() -> None:
    collector, events = Collector(), example_events(2)
    sink = sink_of(collector, max_age_s=0.05)
    async with asyncio.timeout(5):
        await asyncio.gather(*(sink.on_sandbox_event(event) for event in events))

    assert collector.batches == [ids(events)]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (DeliveryError("HTTP 503", retry_after_s=7), DeliveryError),
        (DeliveryRefusedError("HTTP 422"), DeliveryRefusedError),
        (KeyError("a customer's value"), DeliveryError),
    ],
)
async def test_a_failure_of_a_batch_is_each_events_own(
    raised: Exception, expected: type[DeliveryError]
) -> None:
    sink = sink_of(Collector(raised))
    failures = await asyncio.gather(
        *(sink.on_sandbox_event(event) for event in example_events(3)), return_exceptions=True
    )

    assert [type(failure) for failure in failures] == [expected] * 3
    assert len({id(failure) for failure in failures}) == 3
    for failure in failures:
        assert isinstance(failure, DeliveryError)
        assert failure.retry_after_s == getattr(raised, "retry_after_s", None)
        assert "customer" not in failure.reason


async def test_a_batch_that_does_not_end_fails_in_time() -> None:
    collector = Collector()
    collector.gate.clear()
    sink = sink_of(collector, max_events=1, timeout_s=0.05)
    with pytest.raises(DeliveryError, match=r"no end within 0\.05 s"):
        await sink.on_sandbox_event(example_events(1)[0])


async def test_a_delivery_that_was_cancelled_is_not_sent_and_others_are() -> None:
    collector, (gone, left) = Collector(), example_events(2)
    sink = sink_of(collector, max_events=2)
    attempt = asyncio.create_task(sink.on_sandbox_event(gone))
    await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.wait([attempt])
    async with asyncio.timeout(5):
        await sink.on_sandbox_event(left)

    assert collector.batches == [ids([left])]


async def test_closing_fails_what_waits_and_what_is_under_way() -> None:
    collector = Collector()
    collector.gate.clear()
    sink = sink_of(collector, max_events=2)
    attempts = [asyncio.create_task(sink.on_sandbox_event(event)) for event in example_events(3)]
    await asyncio.wait_for(collector.begun.wait(), 5)
    await sink.close()

    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert [type(result) for result in results] == [DeliveryError] * 3
