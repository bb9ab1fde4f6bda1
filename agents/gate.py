"""What each attempt at a delivery has to pass: a pause, the breaker, and the rate limit.

Whoever waits here has begun nothing: no attempt is counted, the entry stays pending in Redis, and
its partition may go to another worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from aiolimiter import AsyncLimiter

from agents.breaker import Breaker, Permit
from config.settings import DeliverySettings
from streams.errors import DeliveryError
from streams.figures.sink_meter import SinkMeter

__all__ = ["Gate"]

log = structlog.get_logger(__name__)

#: What may go at once, of what may go in a second.
_BURST_S: Final = 0.1
#: A worker reads nothing for a moment while partitions move; its rate is not 0 then.
_SHARE_MIN: Final = 0.001


class Gate:
    """The gate in front of one sink, at one worker.

    Arguments:
        share: which part of the sink's partitions this worker reads.
        on_change: told when it opens or closes, other than for a single probe.
    """

    def __init__(
        self,
        meter: SinkMeter,
        settings: DeliverySettings,
        *,
        share: Callable[[], float],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._meter = meter
        self._on_change = on_change
        self._was_open = True
        #: Not set before it is known whether the sink is paused.
        self._running = asyncio.Event()
        self._breaker = Breaker(
            meter, failures=settings.breaker_failures, pause_s=settings.breaker_pause_s
        )
        self._rate_limit_per_s = settings.rate_limit_per_s
        self._share = share
        self._limiter: AsyncLimiter | None = None
        self._limited_to = 0.0

    async def enter(self) -> Permit:
        """Wait until an attempt may be made; it then has to be made, or given back."""
        while True:
            await self._running.wait()
            await self._breaker.wait()
            if self._rate_limit_per_s is not None:
                await self._limiter_for(self._rate_limit_per_s).acquire()
            if self._running.is_set() and (permit := self._breaker.permit()) is not None:
                return permit

    def pause(self, *, for_s: float) -> None:
        """Let nobody go; it is so for so long already."""
        self._running.clear()
        if not self._meter.is_paused:
            log.warning("the sink is paused", action="sink_paused", sink=self._meter.name)
        self._meter.pause(for_s)
        self._look()

    def resume(self) -> None:
        """Let go who waits, as far as breaker and rate limit allow."""
        if self._meter.is_paused:
            log.warning("the sink is resumed", action="sink_resumed", sink=self._meter.name)
        self._meter.resume()
        self._running.set()
        self._look()

    @property
    def is_open(self) -> bool:
        """Whether all may go, as fast as the rate limit lets them."""
        return not (self._meter.is_paused or self._meter.breaker_is_open)

    def _look(self) -> None:
        if self.is_open != self._was_open:
            self._was_open = self.is_open
            self._on_change()

    def ended(self, permit: Permit, failure: DeliveryError | None) -> None:
        """Note how the attempt ended."""
        self._breaker.ended(permit, failure)
        self._look()

    def give_back(self, permit: Permit) -> None:
        """Note that no attempt was made."""
        self._breaker.unused(permit)

    def _limiter_for(self, fleet_per_s: float) -> AsyncLimiter:
        """Return a limiter to this worker's part of the fleet's rate."""
        per_s = fleet_per_s * max(self._share(), _SHARE_MIN)
        if self._limiter is None or per_s != self._limited_to:
            burst = max(per_s * _BURST_S, 1.0)
            self._limiter, self._limited_to = AsyncLimiter(burst, burst / per_s), per_s
        return self._limiter
