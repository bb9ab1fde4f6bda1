"""What the hook agents write into the record of deliveries, without waiting for it.

An agent notes each attempt in this process' memory; a task of its own writes what is new once a
second, over its own connection. Of a delivery only the last attempt is written, and of very many
only the newest, so neither memory nor what is asked of Redis grows with the load. What was not
written yet is lost with the process, or where Redis is away for long.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import starmap
from time import monotonic
from typing import Final

import faust
import redis.asyncio
import structlog

from streams.events import SandboxEvent
from streams.figures.meter import Clock
from streams.ids import format_capsule_id
from streams.sinks.deliveries import EVENT_MAX_BYTES, Delivery, DeliveryRecord, Status
from streams.transport import Entry, StreamLayout, TransportError

__all__ = ["Recorder", "SinkRecord"]

log = structlog.get_logger(__name__)

_PERIOD_S: Final = 1.0
#: Of a sink that takes more in one period than its record holds.
_FULL_PERIOD_S: Final = 5.0

#: Put together as a `Delivery` when it is written: most are not, where there are very many.
_Note = tuple[SandboxEvent, Status, int, float, str, int, bytes, bytes | None]


class SinkRecord:
    """What is new of one sink.

    Arguments:
        keep: deliveries that the record holds.
        clock: Redis' time.
    """

    def __init__(self, sink: str, *, keep: int, clock: Clock) -> None:
        self.sink = sink
        self._keep = keep
        self._clock = clock
        #: By delivery id, the oldest note first.
        self._notes: OrderedDict[str, _Note] = OrderedDict()
        #: More was noted since the last write than the record holds.
        self._is_full = False
        self._written_at = 0.0

    def note(
        self,
        event: SandboxEvent,
        entry: Entry,
        status: Status,
        *,
        attempts: int,
        took_s: float,
        error: str = "",
    ) -> None:
        """Note how an attempt ended."""
        if not self._keep:
            return
        value = entry.value
        self._notes[event.delivery_id] = (
            event,
            status,
            attempts,
            took_s,
            error,
            int(self._clock.now_ms()),
            entry.id,
            # Not of what is large, so that what waits to be written is not.
            value if value is None or len(value) <= EVENT_MAX_BYTES else None,
        )
        self._notes.move_to_end(event.delivery_id)
        if len(self._notes) > self._keep:
            self._notes.popitem(last=False)
            self._is_full = True

    async def write(self, record: DeliveryRecord) -> None:
        """Write what is new; raises TransportError, and then it is written the next time."""
        notes, self._notes = self._notes, OrderedDict()
        self._is_full, self._written_at = False, monotonic()
        if not notes:
            return
        try:
            await record.write(self.sink, starmap(_delivery, notes.values()), keep=self._keep)
        except TransportError:
            notes.update(self._notes)
            self._notes = notes
            while len(notes) > self._keep:
                notes.popitem(last=False)
            raise

    @property
    def is_due(self) -> bool:
        """Whether it is time to write: later where most of it would be pushed out at once."""
        period_s = _FULL_PERIOD_S if self._is_full else _PERIOD_S
        return monotonic() - self._written_at >= period_s * 0.9


def _delivery(
    event: SandboxEvent,
    status: Status,
    attempts: int,
    took_s: float,
    error: str,
    at_ms: int,
    entry_id: bytes,
    value: bytes | None,
) -> Delivery:
    return Delivery(
        event.delivery_id,
        format_capsule_id(event.capsule_id),
        event.type,
        status,
        attempts,
        round(took_s * 1000, 1),
        error,
        at_ms,
        entry_id.decode(),
        value,
    )


class Recorder:
    """The records of all sinks.

    Arguments:
        connect: gives a client for the app's Redis.
        keep: deliveries of each sink that are kept; 0: none.
    """

    def __init__(
        self,
        connect: Callable[[], redis.asyncio.Redis],
        layout: StreamLayout,
        *,
        keep: int,
        clock: Clock,
    ) -> None:
        self._connect = connect
        self._layout = layout
        self._keep = keep
        self._clock = clock
        self._sinks: list[SinkRecord] = []
        self._is_failing = False

    def of(self, sink: str) -> SinkRecord:
        """Return where deliveries to `sink` are noted."""
        record = SinkRecord(sink, keep=self._keep, clock=self._clock)
        self._sinks.append(record)
        return record

    async def keep(self, app: faust.App) -> None:
        """Write once a second what is new, until `app` stops; a Faust task."""
        if not self._sinks or not self._keep:
            return
        async with self._connect() as client:
            while not app.should_stop:
                await self._write(client, [sink for sink in self._sinks if sink.is_due])
                await app.sleep(_PERIOD_S)

    async def finish(self) -> None:
        """Write what is left when nothing is delivered any more."""
        async with self._connect() as client:
            await self._write(client, self._sinks)

    async def _write(self, client: redis.asyncio.Redis, sinks: list[SinkRecord]) -> None:
        record = DeliveryRecord(client, self._layout)
        try:
            for sink in sinks:
                await sink.write(record)
        except TransportError as exc:
            if not self._is_failing:  # tried again each second: said once
                log.warning("deliveries not recorded yet", action="record_retry", error=str(exc))
            self._is_failing = True
        else:
            self._is_failing = False
