"""Looks twice a second which sinks are paused, and has their deliveries wait.

Nothing is attempted before the first look: a sink that was paused stays so over a restart. When
Redis does not answer, what is known stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import faust
import structlog

from agents.deliver import Deliver
from agents.looking import keep_looking
from agents.reconciler import Reconciler
from streams.sinks.pauses import read_pauses
from streams.transport import Producer, TransportError

__all__ = ["PauseWatch"]

log = structlog.get_logger(__name__)

_EVERY_S: Final = 0.5


class PauseWatch:
    """What operators have paused, at one worker."""

    def __init__(self, reconciler: Reconciler, deliveries: Sequence[Deliver]) -> None:
        self._reconciler = reconciler
        self._deliveries = deliveries

    async def watch(self, app: faust.App) -> None:
        """Look until `app` stops; a Faust task."""
        if self._deliveries:
            await keep_looking(app, self._look, every_s=lambda: _EVERY_S, on_failure=_say_so)

    async def _look(self, producer: Producer) -> None:
        paused = await read_pauses(producer.client, self._reconciler.layout)
        now_s = self._reconciler.wiring.meter.clock.now_ms() / 1000
        for delivery in self._deliveries:
            since_s = paused.get(delivery.sink.name)
            if since_s is None:
                delivery.resume()
            else:
                delivery.pause(for_s=max(now_s - since_s, 0.0))


def _say_so(error: TransportError) -> None:
    log.warning(
        "it is not known which sinks are paused", action="pauses_not_known", error=str(error)
    )
