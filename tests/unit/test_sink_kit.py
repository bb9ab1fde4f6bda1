"""The kit finds what is wrong with a sink, and says it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agents.hooks.testing import Report, SinkCheckError, check_sink
from streams.errors import DeliveryError, DeliveryRefusedError
from streams.events import SandboxEvent


@dataclass
class Shelf:
    """A target in memory that can be made to fail, or to hang."""

    ids: list[str] = field(default_factory=list)
    is_broken: bool = False
    is_hanging: bool = False

    async def put(self, delivery_id: str) -> None:
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.is_broken:
            raise DeliveryError("broken")
        self.ids.append(delivery_id)

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        self.is_broken = True
        yield
        self.is_broken = False

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        self.is_hanging = True
        yield
        self.is_hanging = False


class Good:
    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        if event.delivery_id not in self.shelf.ids or self.shelf.is_broken or self.shelf.is_hanging:
            await self.shelf.put(event.delivery_id)


class GoodInBatches:
    def __init__(self, shelf: Shelf) -> None:
        self.good = Good(shelf)

    async def on_sandbox_events(self, events: Sequence[SandboxEvent]) -> None:
        for event in events:
            await self.good.on_sandbox_event(event)


class Doubling(Good):
    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        await self.shelf.put(event.delivery_id)


class Forgetting(Good):
    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        if not self.shelf.is_broken:
            return


class Hiding(Good):
    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        try:
            await super().on_sandbox_event(event)
        except DeliveryError:
            return


class GivingUp(Good):
    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        try:
            await super().on_sandbox_event(event)
        except DeliveryError as exc:
            raise DeliveryRefusedError(exc.reason) from None


class Stubborn(Good):
    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        try:
            await super().on_sandbox_event(event)
        except asyncio.CancelledError:
            return


class OneAtATime(Good):
    busy = False

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0)
        await super().on_sandbox_event(event)
        self.busy = False


class OpenedOnce(Good):
    opened = False

    async def open(self) -> None:
        assert not self.opened, "it was open before"
        self.opened = True

    async def close(self) -> None:
        pass


class ClosedOnce(Good):
    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


class Talking(Good):
    def __repr__(self) -> str:
        return "Talking(password='s3cret')"


class Tattling(Good):
    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        try:
            await super().on_sandbox_event(event)
        except DeliveryError:
            raise DeliveryError("refused: s3cret") from None


async def run(sink: Callable[[Shelf], object]) -> Report:
    shelf = Shelf()
    return await check_sink(
        lambda: sink(shelf),
        delivered=lambda: shelf.ids,
        broken=shelf.broken,
        hanging=shelf.hanging,
        timeout_s=0.3,
        secrets=["s3cret"],
    )


@pytest.mark.parametrize("sink", [Good, GoodInBatches])
async def test_a_sink_that_keeps_the_contract_passes(sink: Callable[[Shelf], object]) -> None:
    report = await run(sink)

    assert (len(report.shown), report.not_shown) == (8, [])


async def test_what_was_not_looked_at_is_said() -> None:
    shelf = Shelf()
    report = await check_sink(lambda: Good(shelf), delivered=lambda: shelf.ids)

    assert (len(report.shown), len(report.not_shown)) == (4, 4)


@pytest.mark.parametrize(
    ("sink", "told"),
    [
        (Doubling, "an event that comes twice is one: .* there once, but it is there 3 times"),
        (Forgetting, "each event is delivered: .* is not there"),
        (Hiding, "a failure is told.*: .* told as delivered"),
        (GivingUp, "a failure is told.*: .* dead letter at once"),
        (Stubborn, "a cancelled attempt ends: expected CancelledError"),
        (OneAtATime, "deliveries at once: .* to succeed, got AssertionError"),
        (
            OpenedOnce,
            "closed, twice, and opened again: .* got DeliveryError.'AssertionError in the",
        ),
        (ClosedOnce, "closed, twice, and opened again: expected close.* to raise nothing"),
        (Talking, "each event is delivered: expected no secret in its repr"),
        (Tattling, "a failure is told.*: expected no secret in the DeliveryError"),
    ],
)
async def test_a_sink_that_breaks_it_is_told_how(
    sink: Callable[[Shelf], object], told: str
) -> None:
    with pytest.raises(SinkCheckError, match=told) as caught:
        await run(sink)
    assert "s3cret" not in str(caught.value)
