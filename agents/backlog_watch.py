"""Looks once a second how much waits for each sink, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import faust
import structlog

from agents.backlog_cap import BacklogCap
from agents.deliver import Deliver
from agents.looking import keep_looking
from agents.overflow import apportion
from agents.reconciler import Reconciler
from streams.figures.depths import read_depths
from streams.transport import Producer, TransportError

__all__ = ["BacklogWatch"]

log = structlog.get_logger(__name__)

_EVERY_S: Final = 1.0
#: Where there is room for so many, looks are fewer: nobody sends that much in the meantime.
_FAR: Final = 100_000
_FAR_EVERY_S: Final = 5.0


class BacklogWatch:
    """The caps of all sinks, at one worker."""

    def __init__(self, reconciler: Reconciler, deliveries: Sequence[Deliver]) -> None:
        self._reconciler = reconciler
        self._deliveries = deliveries

    async def watch(self, app: faust.App) -> None:
        """Look until `app` stops; a Faust task."""
        if self._deliveries:
            await keep_looking(app, self._look, every_s=self._every_s, on_failure=_say_so)

    def _every_s(self) -> float:
        near = any(delivery.cap.left < _FAR for delivery in self._deliveries)
        return _EVERY_S if near else _FAR_EVERY_S

    async def _look(self, producer: Producer) -> None:
        before = [(delivery, delivery.cap.sent) for delivery in self._deliveries]
        depths = await read_depths(
            producer.client,
            self._reconciler.layout,
            [delivery.topic for delivery in self._deliveries],
            group=self._reconciler.settings.app_id,
        )
        consumer = self._reconciler.consumer
        for delivery, sent_before in before:
            # What is settled here is done with, whether or not Redis has been told.
            of_topic = {
                tp: max(depth - consumer.ledger.uncounted(tp), 0)
                for tp, depth in depths.items()
                if tp.topic == delivery.topic
            }
            cap: BacklogCap = delivery.cap
            cap.note_found(sum(of_topic.values()), sent_before=sent_before)
            if cap.over and delivery.overflow is not None:
                over = apportion(cap.over, of_topic, consumer.assignment())
                ended = await delivery.overflow.relieve(over)
                log.warning(
                    "dead letters were made of the oldest deliveries",
                    action="backlog_relieved",
                    sink=cap.name,
                    entries=ended,
                )


def _say_so(error: TransportError) -> None:
    log.warning(
        "it is not known how much waits for the sinks", action="backlog_not_known", error=str(error)
    )
