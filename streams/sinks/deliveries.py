"""The record of the last deliveries to each sink: what became of them, and what was sent.

Three keys for each sink, with a row for each of the newest deliveries: when it was last attempted
(a sorted set), what became of that attempt, and the event (hashes, so that to look costs no
events). A row is that of the last attempt; a delivery that is tried again moves to the front.

It is for people, and to send something again. Nothing rests on it: workers write it behind the
deliveries, and what they had not written yet goes with them when they are killed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib import resources
from itertools import islice
from typing import Any, Final, Self

import orjson
import redis.asyncio

from streams.transport import StreamLayout, broker_errors

__all__ = ["EVENT_MAX_BYTES", "Delivery", "DeliveryRecord", "Status", "Wanted"]

_WRITE: Final = resources.files("streams.lua").joinpath("deliveries_write.lua").read_text("utf-8")
#: Larger events are not kept; a delivery of one is recorded all the same.
EVENT_MAX_BYTES: Final = 16_384
_ERROR_CHARS: Final = 200
#: The last second that a date can be in.
_LAST_S: Final = 253_402_300_799.0
_ROWS_PER_SCRIPT: Final = 250
_PAGE: Final = 500


class Status(StrEnum):
    """What became of a delivery, as far as it got."""

    DELIVERED = "delivered"
    #: The last attempt failed, and another one is to come.
    RETRYING = "retrying"
    #: It is a dead letter.
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery to one sink, as of its last attempt."""

    delivery_id: str
    capsule_id: str
    #: What happened, such as ``created``.
    type: str
    status: Status
    attempts: int
    #: How long the last attempt took.
    took_ms: float
    #: Why it failed; empty: it did not.
    error: str
    #: When the last attempt ended, in ms since the epoch, by Redis' clock.
    at_ms: int
    #: The entry in the topic of the sink.
    entry_id: str
    #: What was sent; None: it was not asked for, or is too large to be kept.
    event: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def at(self) -> datetime:
        """When the last attempt ended."""
        return datetime.fromtimestamp(min(max(self.at_ms / 1000, 0), _LAST_S), UTC)

    def to_row(self) -> bytes:
        """Return all but the event, as it is kept."""
        return orjson.dumps(
            {
                "delivery_id": self.delivery_id,
                "capsule_id": self.capsule_id,
                "type": self.type,
                "status": self.status,
                "attempts": self.attempts,
                "took_ms": self.took_ms,
                "error": self.error[:_ERROR_CHARS],
                "at_ms": self.at_ms,
                "entry_id": self.entry_id,
            }
        )

    @classmethod
    def from_row(cls, raw: bytes, event: bytes | None = None) -> Self | None:
        """Read what `to_row` wrote; None for anything else."""
        try:
            about = orjson.loads(raw)
            return cls(
                str(about["delivery_id"]),
                str(about["capsule_id"]),
                str(about["type"]),
                Status(about["status"]),
                int(about["attempts"]),
                float(about["took_ms"]),
                str(about["error"]),
                int(about["at_ms"]),
                str(about["entry_id"]),
                event,
            )
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which deliveries are meant; None: any."""

    capsule_id: str | None = None
    statuses: frozenset[Status] | None = None
    #: Last attempted at this moment or later.
    since_ms: float | None = None

    def __contains__(self, delivery: Delivery) -> bool:
        return (
            (self.capsule_id is None or delivery.capsule_id == self.capsule_id)
            and (self.statuses is None or delivery.status in self.statuses)
            and (self.since_ms is None or delivery.at_ms >= self.since_ms)
        )


class DeliveryRecord:
    """The record, in Redis. Every method that asks it raises TransportError."""

    def __init__(self, client: redis.asyncio.Redis, layout: StreamLayout) -> None:
        self._client = client
        self._layout = layout

    @staticmethod
    def keys(layout: StreamLayout, sink: str) -> tuple[bytes, bytes, bytes]:
        """Return all keys that there may be of a sink."""
        return (
            layout.name(f"deliveries:{sink}"),
            layout.name(f"deliveries:{sink}:rows"),
            layout.name(f"deliveries:{sink}:events"),
        )

    async def write(self, sink: str, deliveries: Iterable[Delivery], *, keep: int) -> None:
        """Record `deliveries`, and leave the newest `keep` in all; twice is as good as once."""
        left = iter(deliveries)
        while portion := list(islice(left, _ROWS_PER_SCRIPT)):
            arguments: list[bytes | str | int] = [keep]
            for delivery in portion:
                event = delivery.event or b""
                kept = event if len(event) <= EVENT_MAX_BYTES else b""
                arguments += (delivery.delivery_id, delivery.at_ms, delivery.to_row(), kept)
            with broker_errors("deliveries_write"):
                await self._client.eval(_WRITE, 3, *self.keys(self._layout, sink), *arguments)

    async def newest(self, sink: str, wanted: Wanted, *, limit: int) -> list[Delivery]:
        """Return the deliveries meant, the newest first."""
        found: dict[str, Delivery] = {}
        async for page in self._pages(sink, wanted.since_ms):
            # Others may have moved to the front meanwhile.
            found |= {d.delivery_id: d for d in page if d in wanted and d.delivery_id not in found}
            if len(found) >= limit:
                break
        return list(found.values())[:limit]

    async def find(self, sink: str, delivery_ids: Iterable[str]) -> dict[str, Delivery]:
        """Return those of `delivery_ids` that are recorded, with their events."""
        ids = list(dict.fromkeys(delivery_ids))
        _, rows_key, events_key = self.keys(self._layout, sink)
        found: dict[str, Delivery] = {}
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            with broker_errors("HMGET"):
                rows: Any = await self._client.hmget(rows_key.decode(), page)
                events: Any = await self._client.hmget(events_key.decode(), page)
            for raw, event in zip(rows, events, strict=True):
                if raw is not None and (delivery := Delivery.from_row(raw, event)) is not None:
                    found[delivery.delivery_id] = delivery
        return found

    async def _pages(self, sink: str, since_ms: float | None) -> AsyncIterator[list[Delivery]]:
        at_key, rows_key, _ = self.keys(self._layout, sink)
        oldest = "-inf" if since_ms is None else since_ms
        start = 0
        while True:
            with broker_errors("ZREVRANGEBYSCORE"):
                ids: Any = await self._client.zrevrangebyscore(
                    at_key.decode(), "+inf", oldest, start=start, num=_PAGE
                )
                rows: Any = await self._client.hmget(rows_key.decode(), ids) if ids else []
            yield [d for raw in rows if raw is not None and (d := Delivery.from_row(raw))]
            if len(ids) < _PAGE:
                return
            start += _PAGE
