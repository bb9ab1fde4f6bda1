"""A kit with which the author of a sink proves that it keeps what deliveries rely on.

::

    async def test_my_sink_keeps_the_contract() -> None:
        await check_sink(
            lambda: MySink("mine", MySink.Options(path=path)),
            delivered=lambda: read_ids(path),   # what the target has, each copy once
            broken=broken,                      # optional: an async context manager
            hanging=hanging,                    # optional: an async context manager
        )

While ``broken()`` is entered the target takes nothing, and while ``hanging()`` is, it answers
nothing; whatever runs the sink is then cancelled, timed and tried again as a worker does. What a
kit without them did not look at is said in the report.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from agents.hooks.adapted import AdaptedSink
from streams.errors import DeliveryRefusedError
from streams.events import HookType, SandboxEvent

__all__ = ["Report", "SinkCheckError", "check_sink", "example_events"]

_TYPES: Final[tuple[HookType, ...]] = ("created", "paused", "resumed", "destroyed")
#: How long the end of something that was cancelled or timed out may take.
_GRACE_S: Final = 2.0

Target = Callable[[], AbstractAsyncContextManager[None]]
Delivered = Callable[[], "Sequence[str] | Awaitable[Sequence[str]]"]


class SinkCheckError(AssertionError):
    """The sink does not keep the contract; the text says what was expected and what was seen."""


@dataclass
class Report:
    """What was shown, and what was not looked at, each by the name of its check."""

    shown: list[str] = field(default_factory=list)
    not_shown: list[str] = field(default_factory=list)


def example_events(count: int, *, first: int = 1) -> list[SandboxEvent]:
    """Return events of as many capsules, with delivery ids that count up from `first`."""
    return [
        SandboxEvent(
            delivery_id=f"1700000000000-{n}",
            capsule_id=UUID(int=n),
            team_id=UUID(int=1) if n % 5 else None,
            type=_TYPES[n % len(_TYPES)],
            occurred_at=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC) + timedelta(seconds=n),
            metadata={"zone": "zürich", "quote": 'it\'s "so"\n', "empty": ""},
        )
        for n in range(first, first + count)
    ]


async def check_sink(
    make: Callable[[], Any],
    *,
    delivered: Delivered,
    broken: Target | None = None,
    hanging: Target | None = None,
    copies: Literal["one", "marked"] = "one",
    timeout_s: float = 2.0,
    concurrency: int = 16,
    secrets: Sequence[str] = (),
) -> Report:
    """Run a sink through everything that happens to it in a worker.

    Arguments:
        make: gives a new sink; all of them have the same target.
        delivered: gives the delivery ids that the target has, each as often as it has it.
        broken: while it is entered, the target refuses or is not there.
        hanging: while it is entered, the target takes requests and does not answer.
        copies: what becomes of an event that is delivered twice. `one`: the target has it once.
            `marked`: it may have copies with the same delivery id, which its readers drop.
        timeout_s: the setting `timeout_s` of the sink.
        concurrency: deliveries at the same time.
        secrets: texts that no error and no `repr` may show.

    Raises:
        SinkCheckError: the sink does not keep the contract.
    """
    run = _Run(make, delivered, copies, timeout_s, tuple(secrets))
    checks: list[tuple[str, Callable[[], Awaitable[None]] | None]] = [
        ("each event is delivered", run.delivers),
        ("an event that comes twice is one", run.takes_twice),
        (f"{concurrency} deliveries at once", lambda: run.concurrently(concurrency)),
        ("it can be closed, twice, and opened again", run.closes_and_opens),
        ("a failure is told, and the next attempt delivers", broken and _with(run.fails, broken)),
        ("it recovers from a start without its target", broken and _with(run.starts_late, broken)),
        ("a cancelled attempt ends", hanging and _with(run.is_cancelled, hanging)),
        ("an attempt ends in time", hanging and _with(run.is_timed, hanging)),
    ]
    report = Report()
    for name, check in checks:
        if check is None:
            report.not_shown.append(name)
            continue
        try:
            await check()
        except SinkCheckError as exc:
            raise SinkCheckError(f"{name}: {exc}") from exc.__cause__
        report.shown.append(name)
    return report


def _with(check: Callable[[Target], Awaitable[None]], target: Target) -> Callable[[], Any]:
    return lambda: check(target)


class _Run:
    """One sink under test; each check delivers events that no other check does."""

    def __init__(
        self,
        make: Callable[[], Any],
        delivered: Delivered,
        copies: Literal["one", "marked"],
        timeout_s: float,
        secrets: tuple[str, ...],
    ) -> None:
        self._make = make
        self._delivered = delivered
        self._copies = copies
        self._timeout_s = timeout_s
        self._secrets = secrets
        self._next = 1

    def _events(self, count: int) -> list[SandboxEvent]:
        first, self._next = self._next, self._next + count
        return example_events(count, first=first)

    def _sink(self) -> AdaptedSink:
        return self._adapted(self._plugin())

    def _plugin(self) -> Any:
        plugin = self._make()
        self._hides("its repr", repr(plugin))
        return plugin

    def _adapted(self, plugin: Any) -> AdaptedSink:
        return AdaptedSink("check", plugin, timeout_s=self._timeout_s, batch_max_age_s=0.05)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[AdaptedSink]:
        sink = self._sink()
        await sink.open()
        try:
            yield sink
        finally:
            await sink.close()

    async def delivers(self) -> None:
        events = self._events(8)
        async with self._opened() as sink:
            for event in events:
                await self._succeed(sink, event)
            await self._expect(events)

    async def takes_twice(self) -> None:
        (event,) = self._events(1)
        async with self._opened() as sink:
            await self._succeed(sink, event)
            await self._succeed(sink, event)
        async with self._opened() as sink:  # a worker that took over
            await self._succeed(sink, event)
            await self._expect([event])

    async def concurrently(self, concurrency: int) -> None:
        events = self._events(4 * concurrency)
        slots = asyncio.Semaphore(concurrency)

        async def deliver(sink: AdaptedSink, event: SandboxEvent) -> None:
            async with slots:
                await self._succeed(sink, event)

        async with self._opened() as sink:
            results = await asyncio.gather(
                *(deliver(sink, event) for event in events), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            await self._expect(events)

    async def closes_and_opens(self) -> None:
        before, after = self._events(2)
        plugin = self._plugin()
        sink = self._adapted(plugin)
        await self._close("close() without open()", plugin)
        await sink.open()
        await self._succeed(sink, before)
        await sink.close()
        await self._close("close() again", plugin)
        await sink.open()
        await self._succeed(sink, after)
        await sink.close()
        await self._expect([before, after])

    async def fails(self, broken: Target) -> None:
        (event,) = self._events(1)
        async with self._opened() as sink:
            async with broken():
                await self._fail(sink, event)
                await self._fail(sink, event)
            await self._succeed(sink, event)
            await self._expect([event])

    async def starts_late(self, broken: Target) -> None:
        (event,) = self._events(1)
        async with broken():
            sink = self._sink()
            await sink.open()
            await self._fail(sink, event)
        await self._succeed(sink, event)
        await self._expect([event])
        await sink.close()

    async def is_cancelled(self, hanging: Target) -> None:
        (event,) = self._events(1)
        async with self._opened() as sink:
            async with hanging():
                attempt = asyncio.create_task(sink.on_sandbox_event(event))
                await asyncio.sleep(min(0.2, self._timeout_s / 4))
                attempt.cancel()
                done, _ = await asyncio.wait([attempt], timeout=_GRACE_S)
                if not done:
                    raise SinkCheckError(f"still running {_GRACE_S:g} s after it was cancelled")
                if not attempt.cancelled():
                    raise SinkCheckError("expected CancelledError to be passed on, but it was not")
            await self._succeed(sink, event)
            await self._expect([event])

    async def is_timed(self, hanging: Target) -> None:
        (event,) = self._events(1)
        async with self._opened() as sink:
            async with hanging():
                await self._fail(sink, event)
            await self._succeed(sink, event)
            await self._expect([event])

    async def _succeed(self, sink: AdaptedSink, event: SandboxEvent) -> None:
        try:
            await self._in_time(sink, event)
        except Exception as exc:
            raise SinkCheckError(
                f"expected delivery {event.delivery_id} to succeed, got {exc!r}"
            ) from exc

    async def _fail(self, sink: AdaptedSink, event: SandboxEvent) -> None:
        try:
            await self._in_time(sink, event)
        except SinkCheckError:
            raise
        except DeliveryRefusedError as exc:
            raise SinkCheckError(
                f"expected a failure that may pass, but {exc!r} would be a dead letter at once"
            ) from exc
        except Exception as exc:  # noqa: BLE001 - whatever it is, it means: try again
            self._hides(f"the {type(exc).__name__} that it raised", f"{exc!r} {exc}")
            return
        raise SinkCheckError(
            f"expected delivery {event.delivery_id} to fail while the target takes nothing,"
            " but it was told as delivered"
        )

    async def _in_time(self, sink: AdaptedSink, event: SandboxEvent) -> None:
        attempt = asyncio.create_task(sink.on_sandbox_event(event))
        # The worker bounds opening as well as the attempt itself.
        bound_s = 2 * self._timeout_s + _GRACE_S
        done, _ = await asyncio.wait([attempt], timeout=bound_s)
        if not done:
            attempt.cancel()
            raise SinkCheckError(
                f"still running after {bound_s:g} s: it does not let itself be cancelled"
            )
        await attempt

    async def _close(self, what: str, plugin: Any) -> None:
        try:
            if hasattr(plugin, "close"):
                await plugin.close()
        except Exception as exc:
            raise SinkCheckError(f"expected {what} to raise nothing, got {exc!r}") from exc

    async def _expect(self, events: Sequence[SandboxEvent]) -> None:
        found = self._delivered()
        ids = Counter(await found if inspect.isawaitable(found) else found)
        for event in events:
            copies = ids[event.delivery_id]
            if copies == 0:
                raise SinkCheckError(
                    f"delivery {event.delivery_id} was told as delivered, but is not there"
                )
            if copies > 1 and self._copies == "one":
                raise SinkCheckError(
                    f"expected delivery {event.delivery_id} to be there once,"
                    f" but it is there {copies} times"
                )

    def _hides(self, what: str, text: str) -> None:
        if any(secret in text for secret in self._secrets):
            raise SinkCheckError(f"expected no secret in {what}, but there is one")
