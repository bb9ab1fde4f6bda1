"""What a plugin does wrong stays its own trouble: it ends in time, and is tried again."""

from __future__ import annotations

import asyncio

import pytest

from agents.hooks.adapted import AdaptedSink
from agents.hooks.testing import example_events
from streams.errors import DeliveryError
from streams.events import SandboxEvent

(EVENT,) = example_events(1)


class Plugin:
    """Does what a test tells it, and counts."""

    def __init__(self) -> None:
        self.opened = 0
        self.delivered = 0
        self.open_fails: BaseException | None = None
        self.hangs = False
        self.raises: BaseException | None = None

    async def open(self) -> None:
        self.opened += 1
        await self._trouble(self.open_fails)

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        await self._trouble(self.raises)
        self.delivered += 1

    async def close(self) -> None:
        await self._trouble(self.raises)

    async def _trouble(self, failure: BaseException | None) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if failure is not None:
            raise failure


def adapted(plugin: Plugin) -> AdaptedSink:
    return AdaptedSink("s", plugin, timeout_s=0.1)


async def test_what_does_not_open_at_the_start_is_opened_by_a_delivery() -> None:
    plugin = Plugin()
    plugin.open_fails = OSError("redis://u:s3cret@h")
    sink = adapted(plugin)
    await sink.open()
    with pytest.raises(DeliveryError, match=r"^OSError in the sink$"):
        await sink.on_sandbox_event(EVENT)
    plugin.open_fails = None
    await sink.on_sandbox_event(EVENT)
    await sink.on_sandbox_event(EVENT)

    assert (plugin.opened, plugin.delivered) == (3, 2)


async def test_deliveries_at_once_open_it_once() -> None:
    plugin = Plugin()
    sink = adapted(plugin)
    await asyncio.gather(*(sink.on_sandbox_event(EVENT) for _ in range(10)))

    assert (plugin.opened, plugin.delivered) == (1, 10)


async def test_opening_delivering_and_closing_end_in_time() -> None:
    plugin = Plugin()
    sink = adapted(plugin)
    plugin.hangs = True
    async with asyncio.timeout(5):
        await sink.open()
        plugin.hangs = False
        await sink.on_sandbox_event(EVENT)
        plugin.hangs = True
        with pytest.raises(DeliveryError, match=r"^no end within 0\.1 s$"):
            await sink.on_sandbox_event(EVENT)
        await sink.close()


async def test_a_cancellation_of_the_sinks_own_is_a_failure() -> None:
    plugin = Plugin()
    plugin.raises = asyncio.CancelledError()
    with pytest.raises(DeliveryError, match=r"^CancelledError in the sink$"):
        await adapted(plugin).on_sandbox_event(EVENT)


async def test_a_cancellation_from_outside_is_passed_on() -> None:
    plugin = Plugin()
    sink = adapted(plugin)
    await sink.open()
    plugin.hangs = True
    attempt = asyncio.create_task(sink.on_sandbox_event(EVENT))
    await asyncio.sleep(0)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


async def test_a_time_out_of_the_sinks_own_is_not_taken_for_ours() -> None:
    plugin = Plugin()
    plugin.raises = TimeoutError("its own")
    with pytest.raises(TimeoutError, match="its own"):
        await adapted(plugin).on_sandbox_event(EVENT)


async def test_closing_that_fails_is_nobody_elses_trouble() -> None:
    plugin = Plugin()
    sink = adapted(plugin)
    await sink.open()
    plugin.raises = RuntimeError("no")
    await sink.close()
