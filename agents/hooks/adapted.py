"""A sink that somebody else wrote, made into one that the deliveries can rely on.

Whatever it does, an attempt ends in time, a target that is not there when the worker starts is
dialled again later, and a sink that fails to open or close stops nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import structlog

from agents.hooks.batching import Batching
from streams.errors import DeliveryError
from streams.events import SandboxEvent

__all__ = ["AdaptedSink"]

log = structlog.get_logger(__name__)

#: Bound on opening when the worker starts, and on closing when it stops: it waits for both.
_START_S: Final = 5.0


class AdaptedSink:
    """One plugin, with what it leaves out.

    Arguments:
        name: the sink's.
        plugin: an :class:`~agents.hooks.sink.EventSink` or a
            :class:`~agents.hooks.sink.BatchSink`.
        timeout_s: bound on each of its calls; on a batch from when it is sent.
        batch_max_events, batch_max_age_s: see :class:`~agents.hooks.batching.Batching`.
    """

    def __init__(
        self,
        name: str,
        plugin: Any,
        *,
        timeout_s: float,
        batch_max_events: int = 100,
        batch_max_age_s: float = 1.0,
    ) -> None:
        self.name = name
        self._plugin = plugin
        self._timeout_s = timeout_s
        self._is_open = False
        self._opening = asyncio.Lock()
        self._batching: Batching | None = None
        if not hasattr(plugin, "on_sandbox_event"):
            self._batching = Batching(
                lambda events: self._bounded(plugin.on_sandbox_events(events)),
                max_events=batch_max_events,
                max_age_s=batch_max_age_s,
            )

    def __repr__(self) -> str:
        # Not the plugin's own: that may show its options.
        return f"AdaptedSink(name={self.name!r}, type={type(self._plugin).__name__!r})"

    @property
    def target(self) -> str:
        """Where the plugin delivers to, if it says so."""
        return str(getattr(self._plugin, "target", ""))

    async def open(self) -> None:
        """Open the plugin; if it fails, or takes long, each delivery tries again."""
        try:
            await self._ensure_open(min(self._timeout_s, _START_S))
        except DeliveryError as exc:
            log.warning("sink not open", action="sink_not_open", sink=self.name, error=exc.reason)

    async def close(self) -> None:
        """Close the plugin; deliveries under way in a batch fail."""
        if self._batching is not None:
            await self._batching.close()
        self._is_open = False
        if hasattr(self._plugin, "close"):
            try:
                await self._told(self._plugin.close(), min(self._timeout_s, _START_S))
            except DeliveryError as exc:
                log.warning(
                    "sink not closed", action="sink_not_closed", sink=self.name, error=exc.reason
                )

    async def check(self) -> None:
        """Open the plugin and have it look at its target, if it can; DeliveryError if it fails."""
        await self._ensure_open()
        if hasattr(self._plugin, "check"):
            await self._told(self._plugin.check())

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Make one attempt, which ends in time; opens the plugin if that failed before."""
        if not self._is_open:
            await self._ensure_open()
        if self._batching is not None:
            await self._batching.deliver(event)
        else:
            await self._bounded(self._plugin.on_sandbox_event(event))

    async def _ensure_open(self, timeout_s: float | None = None) -> None:
        async with self._opening:
            if self._is_open:
                return
            if hasattr(self._plugin, "open"):
                await self._told(self._plugin.open(), timeout_s)
            self._is_open = True

    async def _told(self, call: Awaitable[None], timeout_s: float | None = None) -> None:
        """Bound a call, and have it say what it raises as a delivery would."""
        try:
            await self._bounded(call, timeout_s)
        except DeliveryError:
            raise
        except Exception as exc:  # noqa: BLE001 - a sink is somebody else's code
            raise DeliveryError(f"{type(exc).__name__} in the sink") from None

    async def _bounded(self, call: Awaitable[None], timeout_s: float | None = None) -> None:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s) as bound:
                await _uncancelled(call)
        except TimeoutError:
            if not bound.expired():
                raise  # the sink's own
            raise DeliveryError(f"no end within {timeout_s:g} s") from None


async def _uncancelled(call: Awaitable[None]) -> None:
    """Await a call that may raise CancelledError by itself, as some libraries do for their own.

    Passed on, it would end whoever makes the attempts.
    """
    try:
        await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise DeliveryError("CancelledError in the sink") from None
