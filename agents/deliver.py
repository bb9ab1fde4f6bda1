"""Delivery: one sink's agent, on a topic of its own.

A delivery that fails is tried again, after a pause that grows, for as long as it takes; its
entry stays pending in Redis all the while. Only later events of the same capsule wait for it;
other capsules pass, and other sinks have their own topics. A worker that leaves gives up what
it is not just attempting, and its successor starts anew from what is pending.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import faust
import structlog

from agents.dead_letters import DeadLetter
from agents.hooks.sink import Sink
from agents.order import KeyedOrder
from agents.reconciler import Reconciler
from streams.errors import DeliveryError
from streams.events import Bad, SandboxEvent
from streams.topics import PAYLOAD_FIELD, SOURCE_ID
from streams.transport import Entry

__all__ = ["Deliver"]

log = structlog.get_logger(__name__)

#: The first pause after a failed attempt; each further one is twice as long, up to the last.
_PAUSE_MIN_S: Final = 0.5
_PAUSE_MAX_S: Final = 60.0
#: The longest a receiver can ask to be left alone.
_RETRY_AFTER_MAX_S: Final = 3600.0


@dataclass(slots=True, eq=False)
class _Delivery:
    event: SandboxEvent
    entry: Entry
    attempts: int = 0


class Deliver:
    """The agent ``hook.<sink>``.

    Arguments:
        sink: where the events go.
        topic: the sink's own.
        concurrency: attempts at the same time.
    """

    def __init__(
        self, reconciler: Reconciler, sink: Sink, topic: faust.TopicT, *, concurrency: int
    ) -> None:
        self.name = f"hook.{sink.name}"
        self.sink = sink
        self._reconciler = reconciler
        self._concurrency = concurrency
        self._dead_letters = reconciler.dead_letters(self.name)
        self._order: KeyedOrder[_Delivery] = KeyedOrder(lambda delivery: delivery.event.capsule_id)
        self._ready: asyncio.Queue[_Delivery] = asyncio.Queue()
        target = f"sink.{sink.name}"
        reconciler.wiring.sinks.add(target)
        reconciler.wiring.connect(self.name, target)
        reconciler.app.agent(topic, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Deliver until the worker stops."""
        async with asyncio.TaskGroup() as group:
            couriers = [
                group.create_task(self._deliver_ready(), name=f"{self.name}-{n}")
                for n in range(self._concurrency)
            ]
            try:
                async for entries in stream:
                    await self._take_in(entries)
            finally:
                for courier in couriers:
                    courier.cancel()

    async def _take_in(self, entries: list[Entry]) -> None:
        deliveries: list[_Delivery] = []
        for entry in entries:
            try:
                deliveries.append(_Delivery(SandboxEvent.from_bytes(entry.value or b""), entry))
            except ValueError as exc:
                await self._bury(entry, Bad("value", "", str(exc)))
        self._make_ready(self._order.admit(deliveries))

    def _make_ready(self, deliveries: Iterable[_Delivery]) -> None:
        for delivery in deliveries:
            self._ready.put_nowait(delivery)

    async def _bury(self, entry: Entry, bad: Bad) -> None:
        source_id = (entry.header(SOURCE_ID) or b"").decode("ascii", "replace")
        fields = {} if entry.value is None else {PAYLOAD_FIELD: entry.value}
        with self._reconciler.working([entry]):
            await self._dead_letters.keep([DeadLetter(source_id, bad, fields)])
            self._reconciler.settle([entry])
        self._reconciler.count(self.name, "dead")

    async def _deliver_ready(self) -> None:
        while True:
            delivery = await self._ready.get()
            if self._reconciler.is_leaving:
                return
            pause_s: float | None = None
            with self._reconciler.working([delivery.entry]) as ours:
                if ours:  # and not another worker's by now
                    pause_s = await self._attempt(delivery)
                    if pause_s is None:
                        self._reconciler.settle([delivery.entry])
                        self._reconciler.count(self.name, "done")
            if pause_s is None:
                self._make_ready(self._order.release([delivery]))
            else:
                self._reconciler.count(self.name, "retry")
                asyncio.get_running_loop().call_later(pause_s, self._ready.put_nowait, delivery)

    async def _attempt(self, delivery: _Delivery) -> float | None:
        """Make one attempt; return None if it went well, else the pause before the next."""
        delivery.attempts += 1
        retry_after_s: float | None = None
        try:
            await self.sink.on_sandbox_event(delivery.event)
            return None
        except DeliveryError as exc:
            reason, retry_after_s = exc.reason, exc.retry_after_s
        except Exception as exc:  # noqa: BLE001 - a sink is somebody else's code
            reason = f"{type(exc).__name__} in the sink"
        pause_s = self._pause_s(delivery.attempts, retry_after_s)
        log.warning(
            "delivery failed, it will be tried again",
            action="delivery_retry",
            sink=self.sink.name,
            delivery_id=delivery.event.delivery_id,
            attempt=delivery.attempts,
            reason=reason,
            pause_s=round(pause_s, 2),
        )
        return pause_s

    def _pause_s(self, attempts: int, retry_after_s: float | None) -> float:
        grown_s = min(_PAUSE_MIN_S * 2.0 ** min(attempts - 1, 16), _PAUSE_MAX_S)
        pause_s = grown_s * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
        if retry_after_s is None:
            return pause_s
        return max(pause_s, min(retry_after_s, _RETRY_AFTER_MAX_S))
