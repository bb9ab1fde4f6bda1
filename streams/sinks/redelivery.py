"""Sending recorded deliveries again: to their own sink alone, under the same delivery ids.

Each goes into the sink's topic as a new entry, behind what is there. One that is a dead letter is
replayed as such, so that the letter knows; one that is still being tried is not sent, since it is
on its way. To send one twice is harmless to a sink that keeps the contract, so an order that was
cut off may be given again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import redis.asyncio
import structlog
from redis.exceptions import WatchError

from streams.dead_letters.letters import Letter
from streams.dead_letters.replay import Resender
from streams.dead_letters.store import LetterStore
from streams.errors import ReconcilerError
from streams.events import EntryId, SandboxEvent
from streams.recorded_topics import HOOKS_PREFIX, recorded_partitions
from streams.sinks.deliveries import Delivery, DeliveryRecord, Status, Wanted
from streams.sinks.room import BacklogRoom
from streams.topics import SOURCE_ID
from streams.transport import StreamLayout, broker_errors, partition_of
from streams.transport.bundles import added_field, stream_id_of
from streams.transport.entry import encode_fields

__all__ = ["Choice", "Redelivery", "WrongDeliveriesError"]

log = structlog.get_logger(__name__)

#: Sent in one transaction, at most.
_PORTION: Final = 200
_SHOWN: Final = 20


class WrongDeliveriesError(ReconcilerError):
    """The order names deliveries that cannot be sent again; none was."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What an order means."""

    #: Those to send, in the order of the source.
    deliveries: list[Delivery] = field(default_factory=list)
    #: Left out, with why.
    left_out: dict[str, str] = field(default_factory=dict)


class Redelivery:
    """Deliveries to one sink, sent again.

    Arguments:
        group: the consumer group of the app.
        layout: where the app's keys are.
    """

    def __init__(
        self, client: redis.asyncio.Redis, sink: str, *, group: str, layout: StreamLayout
    ) -> None:
        self._client = client
        self._sink = sink
        self._group = group
        self._layout = layout
        self._topic = f"{HOOKS_PREFIX}{sink}"
        self._record = DeliveryRecord(client, layout)
        #: How many were sent, and how many are left to be.
        self.sent = self.left = 0

    async def named(self, delivery_ids: Sequence[str]) -> Choice:
        """Return the deliveries of these ids.

        Raises:
            WrongDeliveriesError: one is not recorded, or cannot be sent again.
            TransportError: Redis is unreachable or refuses.
        """
        found = await self._record.find(self._sink, delivery_ids)
        if unknown := [name for name in delivery_ids if name not in found]:
            names = ", ".join(unknown[:_SHOWN])
            raise WrongDeliveriesError(f"no such delivery to {self._sink} is recorded: {names}")
        choice = await self._judge(found.values())
        if choice.left_out:
            told = [f"{name}: {why}" for name, why in choice.left_out.items()]
            raise WrongDeliveriesError("; ".join(told[:_SHOWN]))
        return choice

    async def meant(self, wanted: Wanted) -> Choice:
        """Return the recorded deliveries that are meant, without those that cannot be sent again.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        rows = await self._record.newest(self._sink, wanted, limit=10**9)
        found = await self._record.find(self._sink, (row.delivery_id for row in rows))
        return await self._judge(found.values())

    async def _judge(self, deliveries: Iterable[Delivery]) -> Choice:
        partitions = await recorded_partitions(self._client, self._layout, self._topic)
        choice = Choice()
        for delivery in sorted(deliveries, key=lambda d: EntryId.parse(d.delivery_id)):
            event = _event(delivery)
            if event is None:
                choice.left_out[delivery.delivery_id] = "its event is too large to be kept"
            elif delivery.status is Status.RETRYING and await self._is_pending(
                delivery, partition_of(event.capsule_id.bytes, partitions)
            ):
                choice.left_out[delivery.delivery_id] = "it is still being tried"
            else:
                choice.deliveries.append(delivery)
        return choice

    async def _is_pending(self, delivery: Delivery, partition: int) -> bool:
        stream = self._layout.name(f"{self._topic}:{partition}")
        with broker_errors("XPENDING"):
            if not await self._client.exists(stream):
                return False
            at = stream_id_of(delivery.entry_id.encode())
            return bool(
                await self._client.xpending_range(stream, self._group, min=at, max=at, count=1)
            )

    async def send(
        self,
        choice: Choice,
        room: BacklogRoom,
        letters: LetterStore | None,
        resender: Resender | None,
    ) -> None:
        """Send what was chosen, in order, as far as there is room; `sent` and `left` say how far.

        Arguments:
            room: of the sink's backlog; waits for more.
            letters, resender: where some of them are dead, else None.

        Raises:
            BacklogFullError, TransportError, DatabaseUnavailableError: not all were sent; do it
                again.
        """
        self.sent, self.left = 0, len(choice.deliveries)
        of_letters: dict[str, Letter] = {}
        dead = [d.delivery_id for d in choice.deliveries if d.status is Status.DEAD]
        if dead and letters is not None:
            of_letters = letters.open_of_sink(self._sink, dead)
        for is_letter, run in groupby(
            choice.deliveries, key=lambda delivery: delivery.delivery_id in of_letters
        ):
            if not is_letter:
                await self._send_plain(list(run), room)
                continue
            assert letters is not None  # noqa: S101 - it has found them
            assert resender is not None  # noqa: S101 - it comes with them
            for delivery in run:
                if not await room.take(self._sink):
                    return
                letter = of_letters[delivery.delivery_id]
                letters.claim_one(letter)  # or it is being replayed by now: that is finished
                self.sent += await resender.send(letter) is not None
                self.left -= 1

    async def _send_plain(self, deliveries: list[Delivery], room: BacklogRoom) -> None:
        at = 0
        while at < len(deliveries):
            count = await room.take(self._sink, min(len(deliveries) - at, _PORTION))
            if not count:
                return
            await self._send_portion(deliveries[at : at + count])
            at += count
            self.sent += count
            self.left -= count

    async def _send_portion(self, deliveries: list[Delivery]) -> None:
        """Send all of them or none, to the partitions that are recorded at that moment."""
        while True:
            async with self._client.pipeline(transaction=True) as transaction:
                with broker_errors("XADD"):
                    await transaction.watch(self._layout.name("topics"))
                    partitions = await recorded_partitions(transaction, self._layout, self._topic)
                    transaction.multi()
                    counts = self._layout.counts_key(self._topic).decode()
                    for delivery in deliveries:
                        partition, command = self._xadd(delivery, partitions)
                        transaction.execute_command(*command)
                        transaction.hincrby(counts, added_field(partition), 1)
                    try:
                        await transaction.execute()
                    except WatchError:
                        continue
            for delivery in deliveries:
                log.info(
                    "delivery sent again",
                    action="delivery_resent",
                    sink=self._sink,
                    source_id=delivery.delivery_id,
                )
            return

    def _xadd(self, delivery: Delivery, partitions: int) -> tuple[int, tuple[Any, ...]]:
        event = _event(delivery)
        assert event is not None  # noqa: S101 - others are left out
        key = event.capsule_id.bytes
        partition = partition_of(key, partitions)
        stream = self._layout.name(f"{self._topic}:{partition}")
        headers = {SOURCE_ID: delivery.delivery_id.encode()}
        return partition, ("XADD", stream, "*", *encode_fields(key, delivery.event, headers))


def _event(delivery: Delivery) -> SandboxEvent | None:
    """Return what was sent, if it is kept and is what the row says."""
    try:
        event = SandboxEvent.from_bytes(delivery.event or b"")
    except ValueError:
        return None
    return event if event.delivery_id == delivery.delivery_id else None
