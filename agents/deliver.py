"""Delivery: one sink's agent, on a topic of its own.

A delivery that fails is tried again, after a pause that grows; its entry stays pending in Redis
all the while. Only later events of the same capsule wait for it; other capsules pass, and other
sinks have their own topics. A worker that leaves gives up what it is not just attempting, and its
successor goes on from what is pending, with the attempts and pauses noted of it. A delivery that
the sink refuses for good, or has not taken in ``retry_for_s``, is a dead letter.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Final

import faust
import structlog

from agents.hooks.sink import Sink
from agents.order import KeyedOrder
from agents.reconciler import Reconciler
from agents.retry_schedule import PAUSE_MAX_S, Attempts, RetrySchedule
from streams.dead_letters import DeadLetter
from streams.errors import DeliveryError, DeliveryRefusedError
from streams.events import EntryId, SandboxEvent
from streams.outcomes import Dead, Reason
from streams.transport import Entry

__all__ = ["Deliver"]

log = structlog.get_logger(__name__)

#: The first pause after a failed attempt; each further one is twice as long, up to the last.
_PAUSE_MIN_S: Final = 0.5
_PAUSE_MAX_S: Final = 60.0


@dataclass(slots=True, eq=False)
class _Delivery:
    event: SandboxEvent
    entry: Entry
    attempts: Attempts
    #: When the producer's entry came, in ms.
    source_ms: int


class Deliver:
    """The agent ``hook.<sink>``.

    Arguments:
        sink: where the events go.
        topic: the sink's own.
        concurrency: attempts at the same time.
        retry_for_s: how long a delivery is tried, from its first attempt on.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        sink: Sink,
        topic: faust.TopicT,
        *,
        concurrency: int,
        retry_for_s: float,
    ) -> None:
        self.name = f"hook.{sink.name}"
        self.sink = sink
        self._reconciler = reconciler
        self._concurrency = concurrency
        self._retry_for_s = retry_for_s
        self._stage = reconciler.stage(self.name)
        self._schedule = RetrySchedule(reconciler, self.name)
        self._order: KeyedOrder[_Delivery] = KeyedOrder(lambda delivery: delivery.event.capsule_id)
        self._ready: asyncio.Queue[_Delivery] = asyncio.Queue()
        target = f"sink.{sink.name}"
        reconciler.wiring.sinks.add(target)
        self._flow = reconciler.wiring.connect(self.name, target)
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
                    self._stage.receive(entries)
                    self._stage.trace.receive(entries)
                    await self._take_in(entries)
            finally:
                for courier in couriers:
                    courier.cancel()

    async def _take_in(self, entries: list[Entry]) -> None:
        deliveries: list[_Delivery] = []
        attempts = await self._schedule.recall(entries)
        for entry, so_far in zip(entries, attempts, strict=True):
            try:
                event = SandboxEvent.from_bytes(entry.value or b"")
                source_ms = EntryId.parse(event.delivery_id).ms
            except ValueError as exc:
                with self._reconciler.working([entry]) as ours:
                    if ours:
                        await self._bury(entry, Dead(Reason.BAD_ENTRY, str(exc)))
            else:
                deliveries.append(_Delivery(event, entry, so_far, source_ms))
        for delivery in self._order.admit(deliveries):
            self._make_ready(delivery)

    def _make_ready(self, delivery: _Delivery) -> None:
        """Have it attempted when it is due: at once, unless another worker has tried already."""
        self._after(delivery.attempts.wait_s(), delivery)

    def _after(self, pause_s: float, delivery: _Delivery) -> None:
        if pause_s > 0:
            asyncio.get_running_loop().call_later(pause_s, self._ready.put_nowait, delivery)
        else:
            self._ready.put_nowait(delivery)

    async def _deliver_ready(self) -> None:
        while True:
            delivery = await self._ready.get()
            if self._reconciler.is_leaving:
                return
            pause_s: float | None = None
            with self._reconciler.working([delivery.entry]) as ours:
                if ours:  # and not another worker's by now
                    pause_s = await self._deliver(delivery)
                else:
                    self._stage.meter.unblock()
                    self._stage.trace.end([delivery], "left")
            if pause_s is not None:
                self._after(pause_s, delivery)
                continue
            for following in self._order.release([delivery]):
                self._make_ready(following)

    async def _deliver(self, delivery: _Delivery) -> float | None:
        """Make one attempt; return the pause before the next, None where the entry is done with."""
        attempts = delivery.attempts
        attempts.count += 1
        with self._stage.trace.attempt(delivery):
            failure = await self._attempt(delivery.event)
        if failure is None:
            self._flow.entries += 1
            self._stage.meter.unblock()
            self._stage.done([delivery.entry], source_ms=[delivery.source_ms])
            if attempts.count > 1:
                await self._schedule.forget(delivery.entry)
            return None
        self._stage.meter.block(f"sink.{self.sink.name}")
        now_s = time.time()
        pause_s = _pause_s(attempts.count, failure.retry_after_s)
        attempts.failed(failure.reason, pause_s=pause_s, now_s=now_s)
        self._stage.trace.attempt_failed(
            delivery, error=failure.reason, attempts=attempts.count, pause_s=pause_s
        )
        if isinstance(failure, DeliveryRefusedError):
            self._stage.meter.unblock()
            await self._give_up(delivery, Reason.REFUSED_BY_SINK)
            return None
        if attempts.due_at_s > attempts.first_at_s + self._retry_for_s:
            await self._give_up(delivery, Reason.GAVE_UP)
            return None
        await self._schedule.note(delivery.entry, attempts)
        self._stage.retry(
            delivery.event.delivery_id,
            pause_s=pause_s,
            error=failure.reason,
            attempts=attempts.count,
        )
        return pause_s

    async def _attempt(self, event: SandboxEvent) -> DeliveryError | None:
        """Make one attempt; return what went wrong, if anything did."""
        try:
            await self.sink.on_sandbox_event(event)
        except DeliveryError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - a sink is somebody else's code
            return DeliveryError(f"{type(exc).__name__} in the sink")
        return None

    async def _give_up(self, delivery: _Delivery, reason: Reason) -> None:
        attempts = delivery.attempts
        why = Dead(reason, attempts.error, attempts.count, attempts.first_at_s)
        await self._bury(delivery.entry, why)
        if attempts.count > 1:
            await self._schedule.forget(delivery.entry)

    async def _bury(self, entry: Entry, why: Dead) -> None:
        letter = DeadLetter.of_delivery(entry, self.name, self.sink.name, why)
        await self._stage.dead([(entry, letter)])


def _pause_s(attempts: int, retry_after_s: float | None) -> float:
    grown_s = min(_PAUSE_MIN_S * 2.0 ** min(attempts - 1, 16), _PAUSE_MAX_S)
    pause_s = grown_s * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
    if retry_after_s is None:
        return pause_s
    return max(pause_s, min(retry_after_s, PAUSE_MAX_S))
