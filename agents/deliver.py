"""Delivery: one sink's agent, on a topic of its own.

A delivery that fails is tried again, after a pause that grows; its entry stays pending in Redis
all the while. Only later events of the same capsule wait for it (none do, where the sink asks for
no order); other capsules pass, and other sinks have their own topics. Before each attempt there
is a gate (:mod:`agents.gate`), at which nothing is begun. A worker that leaves gives up what it is
not just attempting, and its successor goes on from what is pending, with the attempts and pauses
noted of it. A delivery that the sink refuses for good, or has not taken in ``retry_for_s``, is a
dead letter.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import faust
import structlog

from agents.breaker import Permit
from agents.gate import Gate
from agents.hooks.make import Made
from agents.order import KeyedOrder
from agents.overflow import InHand, Overflow
from agents.reconciler import Reconciler
from agents.retry_schedule import PAUSE_MAX_S, Attempts, RetrySchedule
from streams.dead_letters.record import DeadLetter
from streams.errors import DeliveryError, DeliveryRefusedError
from streams.events import EntryId, SandboxEvent
from streams.outcomes import Dead, Reason
from streams.sinks.deliveries import Status
from streams.transport import Entry

__all__ = ["Deliver", "Delivery"]

log = structlog.get_logger(__name__)

#: The error of a delivery that gave way to others before it was attempted.
_NEVER: Final = "never attempted"


@dataclass(slots=True, eq=False)
class Delivery:
    """One event on its way to the sink."""

    event: SandboxEvent
    entry: Entry
    attempts: Attempts
    #: When the producer's entry came, in ms.
    source_ms: int
    #: Deliveries with the same key go one at a time.
    order_key: Hashable
    #: An attempt is under way.
    is_tried: bool = False
    #: It was ended by somebody else than who attempts it.
    is_ended: bool = False
    pause: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is under way that would end it."""
        return not (self.is_tried or self.is_ended)


class Deliver:
    """The agent ``hook.<sink>``.

    Arguments:
        made: where the events go, and how.
        topic: the sink's own.
    """

    def __init__(self, reconciler: Reconciler, made: Made, topic: faust.TopicT) -> None:
        self.sink = sink = made.sink
        self.name = f"hook.{sink.name}"
        self._reconciler = reconciler
        self.topic = topic.get_topic_name()
        self.cap = reconciler.caps[sink.name]
        self._concurrency = made.concurrency
        self._settings = made.settings
        self._wants = made.wants
        self._meter = reconciler.wiring.meter.sink(sink.name)
        self._in_hand = InHand()
        #: None: nothing gives way, and who sends to the sink has to wait.
        self.overflow = None if self.cap.holds else Overflow(self._in_hand, self._end_waiting)
        self._gate = Gate(
            self._meter, made.settings, share=self._share, on_change=self._read_or_not
        )
        self._stage = reconciler.stage(self.name)
        self._schedule = RetrySchedule(reconciler, self.name)
        self._record = reconciler.recorder.of(sink.name)
        self._order: KeyedOrder[Delivery] = KeyedOrder(lambda delivery: delivery.order_key)
        self._ready: asyncio.Queue[Delivery] = asyncio.Queue()
        #: Events that the sink does not want wait for nobody who waits at the gate.
        self._unwanted: asyncio.Queue[Delivery] = asyncio.Queue()
        target = f"sink.{sink.name}"
        reconciler.wiring.sinks.add(target)
        self._flow = reconciler.wiring.connect(self.name, target)
        reconciler.app.agent(topic, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Deliver until the worker stops."""
        async with asyncio.TaskGroup() as group:
            couriers = [
                group.create_task(self._deliver_from(self._ready), name=f"{self.name}-{n}")
                for n in range(self._concurrency)
            ]
            name = f"{self.name}-unwanted"
            couriers.append(group.create_task(self._deliver_from(self._unwanted), name=name))
            try:
                async for entries in stream:
                    self._stage.receive(entries)
                    self._stage.trace.receive(entries)
                    await self._take_in(entries)
            finally:
                for courier in couriers:
                    courier.cancel()

    def pause(self, *, for_s: float) -> None:
        """Attempt nothing more until `resume`; it is so for so long already."""
        self._gate.pause(for_s=for_s)
        # It waits for a person now, and not for the sink.
        self._stage.meter.unblock()

    def resume(self) -> None:
        """Attempt what waits."""
        self._gate.resume()

    async def _take_in(self, entries: list[Entry]) -> None:
        deliveries: list[Delivery] = []
        attempts = await self._schedule.recall(entries)
        for entry, so_far in zip(entries, attempts, strict=True):
            try:
                event = SandboxEvent.from_bytes(entry.value or b"")
                source_ms = EntryId.parse(event.delivery_id).ms
            except ValueError as exc:
                with self._reconciler.working([entry]) as ours:
                    if ours:
                        why = Dead(Reason.BAD_ENTRY, str(exc))
                        letter = DeadLetter.of_delivery(entry, self.name, self.sink.name, why)
                        await self._stage.dead([(entry, letter)])
            else:
                # Without order each is of a kind of its own.
                key: Hashable = event.capsule_id if self._settings.ordered else entry
                deliveries.append(Delivery(event, entry, so_far, source_ms, key))
        if self.overflow is not None:
            for delivery in deliveries:
                self._in_hand.add(delivery)
        for delivery in self._order.admit(deliveries):
            self._make_ready(delivery)

    def _make_ready(self, delivery: Delivery) -> None:
        """Have it attempted when it is due: at once, unless another worker has tried already."""
        if not self._wants(delivery.event):
            self._unwanted.put_nowait(delivery)
        elif not delivery.is_ended:
            self._after(delivery.attempts.wait_s(), delivery)

    def _after(self, pause_s: float, delivery: Delivery) -> None:
        if pause_s > 0:
            loop = asyncio.get_running_loop()
            delivery.pause = loop.call_later(pause_s, self._ready.put_nowait, delivery)
        else:
            self._ready.put_nowait(delivery)

    async def _deliver_from(self, queue: asyncio.Queue[Delivery]) -> None:
        while True:
            delivery = await queue.get()
            permit = await self._gate.enter() if self._wants(delivery.event) else None
            if self._reconciler.is_leaving:
                return
            pause_s: float | None = None
            with self._reconciler.working([delivery.entry]) as ours:
                if ours and not delivery.is_ended:  # and not another worker's by now
                    delivery.is_tried = True
                    pause_s = await self._deliver(delivery, permit)
                    delivery.is_tried = False
                else:
                    if permit is not None:
                        self._gate.give_back(permit)
                    if not ours:
                        self._stage.meter.unblock()
                        self._stage.trace.end([delivery], "left")
            if pause_s is not None:
                self._after(pause_s, delivery)
            elif not delivery.is_ended:
                self._over(delivery)

    def _over(self, delivery: Delivery) -> None:
        """Let go what waited behind a delivery that is done with, or another worker's."""
        self._in_hand.remove(delivery)
        for following in self._order.release([delivery]):
            self._make_ready(following)

    async def _end_waiting(self, deliveries: Sequence[Delivery]) -> None:
        """Make dead letters of deliveries that nobody attempts: there is no room for them."""
        for delivery in deliveries:
            delivery.is_ended = True
            if delivery.pause is not None:
                delivery.pause.cancel()
        with self._reconciler.working([delivery.entry for delivery in deliveries]) as ours:
            ended = [delivery for delivery in deliveries if delivery.entry in ours]
            await self._stage.dead(
                (delivery.entry, self._letter(delivery, Reason.BACKLOG_FULL)) for delivery in ended
            )
            for delivery in ended:
                self._note(delivery, Status.DEAD, 0.0)
                if delivery.attempts.count:
                    await self._schedule.forget(delivery.entry)
        for delivery in deliveries:
            self._over(delivery)
        # What was ended is not to pile up before a sink that takes nothing.
        for _ in range(self._ready.qsize()):
            delivery = self._ready.get_nowait()
            if not delivery.is_ended:
                self._ready.put_nowait(delivery)

    async def _deliver(self, delivery: Delivery, permit: Permit | None) -> float | None:
        """Make one attempt; return the pause before the next, None where the entry is done with."""
        attempts = delivery.attempts
        attempts.count += 1
        began = time.monotonic()
        with self._stage.trace.attempt(delivery):
            failure = await self._attempt(delivery.event)
        took_s = time.monotonic() - began
        if permit is not None:
            self._gate.ended(permit, failure)
        if failure is None:
            self._flow.entries += 1
            if permit is not None:
                self._stage.meter.unblock()
            self._stage.done([delivery.entry], source_ms=[delivery.source_ms])
            self._note(delivery, Status.DELIVERED, took_s)
            if attempts.count > 1:
                await self._schedule.forget(delivery.entry)
            return None
        if not self._meter.is_paused:
            self._stage.meter.block(f"sink.{self.sink.name}")
        now_s = time.time()
        pause_s = self._pause_s(attempts.count, failure.retry_after_s)
        attempts.failed(failure.reason, pause_s=pause_s, now_s=now_s)
        self._stage.trace.attempt_failed(
            delivery, error=failure.reason, attempts=attempts.count, pause_s=pause_s
        )
        if isinstance(failure, DeliveryRefusedError):
            self._stage.meter.unblock()
            await self._give_up(delivery, Reason.REFUSED_BY_SINK)
            self._note(delivery, Status.DEAD, took_s)
            return None
        if attempts.due_at_s > attempts.first_at_s + self._settings.retry_for_s:
            await self._give_up(delivery, Reason.GAVE_UP)
            self._note(delivery, Status.DEAD, took_s)
            return None
        await self._schedule.note(delivery.entry, attempts)
        self._note(delivery, Status.RETRYING, took_s)
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

    def _note(self, delivery: Delivery, status: Status, took_s: float) -> None:
        if not self._wants(delivery.event):
            return  # that was no attempt
        attempts = delivery.attempts
        self._record.note(
            delivery.event,
            delivery.entry,
            status,
            attempts=attempts.count,
            took_s=took_s,
            error="" if status is Status.DELIVERED else attempts.error or _NEVER,
        )

    async def _give_up(self, delivery: Delivery, reason: Reason) -> None:
        await self._stage.dead([(delivery.entry, self._letter(delivery, reason))])
        if delivery.attempts.count > 1:
            await self._schedule.forget(delivery.entry)

    def _letter(self, delivery: Delivery, reason: Reason) -> DeadLetter:
        attempts = delivery.attempts
        error = attempts.error or _NEVER
        why = Dead(reason, error, max(attempts.count, 1), attempts.first_at_s or None)
        return DeadLetter.of_delivery(delivery.entry, self.name, self.sink.name, why)

    def _pause_s(self, attempts: int, retry_after_s: float | None) -> float:
        least_s, most_s = self._settings.retry_pause_min_s, self._settings.retry_pause_max_s
        grown_s = min(least_s * 2.0 ** min(attempts - 1, 16), most_s)
        pause_s = grown_s * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
        if retry_after_s is None:
            return pause_s
        return max(pause_s, min(retry_after_s, PAUSE_MAX_S))

    def _read_or_not(self) -> None:
        """Have the topic read while the sink takes deliveries; what only waits costs others."""
        ledger = self._reconciler.consumer.ledger
        if self._gate.is_open:
            ledger.let_go(self.topic)
        else:
            ledger.hold(self.topic)

    def _share(self) -> float:
        """Which part of the sink's partitions this worker reads."""
        held = sum(tp.topic == self.topic for tp in self._reconciler.consumer.assignment())
        return held / self._reconciler.settings.partitions
