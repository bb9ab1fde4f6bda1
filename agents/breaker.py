"""A circuit breaker: a sink that fails again and again is left alone for a while.

After so many failures in a row it opens, and no delivery is attempted. When it has been open for
its pause, one delivery is: the probe. If that succeeds it closes, and otherwise it is open for
another pause. Deliveries that wait for it have made no attempt meanwhile, and stay pending.

What it is open or closed by is the library's to say; here is who may go, and that it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from time import monotonic

import structlog
from circuitbreaker import CircuitBreaker

from agents.retry_schedule import PAUSE_MAX_S
from streams.errors import DeliveryError, DeliveryRefusedError
from streams.figures.sink_meter import SinkMeter

__all__ = ["Breaker", "Permit"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """One attempt may be made; it ends with `Breaker.ended` or `Breaker.unused`."""

    is_probe: bool


class Breaker:
    """The breaker of one sink, as one worker sees it.

    Arguments:
        failures: so many in a row open it.
        pause_s: how long it is open before it is probed; longer, if the sink asks for it.
    """

    def __init__(self, meter: SinkMeter, *, failures: int, pause_s: float) -> None:
        self._meter = meter
        self._pause_s = pause_s
        self._circuit = CircuitBreaker(
            failure_threshold=failures,
            recovery_timeout=pause_s,
            expected_exception=_says_that_the_sink_fails,
            name=meter.name,
        )
        self._probing = False
        self._passable = asyncio.Event()
        self._passable.set()
        self._probe_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        """Wait until an attempt may be made."""
        await self._passable.wait()

    def permit(self) -> Permit | None:
        """Return the right to make one attempt; None: it has to wait."""
        if self._circuit.closed:
            return Permit(is_probe=False)
        if self._probing or self._is_to_be_left_alone():
            return None
        self._probing = True
        self._look()
        return Permit(is_probe=True)

    def unused(self, permit: Permit) -> None:
        """Note that no attempt was made."""
        if permit.is_probe:
            self._probing = False
            self._look()

    def ended(self, permit: Permit, failure: DeliveryError | None) -> None:
        """Note how an attempt ended.

        One that began before the breaker opened counts as well: a success closes it.
        """
        if permit.is_probe:
            self._probing = False
        with contextlib.suppress(DeliveryError), self._circuit:
            if failure is not None:
                raise failure
        self._meter.failures_in_a_row = self._circuit.failure_count
        if self._circuit.closed:
            self._closed()
        elif failure is not None:
            self._opened(failure)
        self._look()

    def _closed(self) -> None:
        if not self._meter.breaker_is_open:
            return
        log.info(
            "the sink works again",
            action="breaker_closed",
            sink=self._meter.name,
            open_for_s=round(self._meter.breaker_open_s(), 1),
        )
        self._meter.close_breaker()
        self._probe_at = 0.0

    def _opened(self, failure: DeliveryError) -> None:
        # No sooner than it asked for, if it did.
        asked_s = min(failure.retry_after_s or 0.0, PAUSE_MAX_S)
        self._probe_at = max(self._probe_at, monotonic() + max(self._pause_s, asked_s))
        if self._meter.breaker_is_open:
            return
        self._meter.open_breaker()
        log.warning(
            "the sink fails again and again: its deliveries wait until a probe succeeds",
            action="breaker_opened",
            sink=self._meter.name,
            failures=self._circuit.failure_count,
            pause_s=self._pause_s,
            error=failure.reason,
        )

    def _is_to_be_left_alone(self) -> bool:
        if self._circuit.closed:
            return False
        return bool(self._circuit.opened) or monotonic() < self._probe_at

    def _look(self) -> None:
        """Let them go who wait, if one of them may; look again when the pause is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_to_be_left_alone():
            self._passable.clear()
            # Timers may ring a little early.
            wait_s = max(self._probe_at - monotonic(), 0.001)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)
        elif self._probing:
            self._passable.clear()
        else:
            self._passable.set()


def _says_that_the_sink_fails(kind: type[BaseException], _: BaseException) -> bool:
    """Whether it is the sink that fails: to refuse a delivery it must be well."""
    return issubclass(kind, DeliveryError) and not issubclass(kind, DeliveryRefusedError)
