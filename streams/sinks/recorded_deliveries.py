"""How one capsule's deliveries ended, from the record: their entries may be gone before a look."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

import redis.asyncio

from streams.ids import excerpt
from streams.recorded_topics import HOOKS_PREFIX
from streams.sinks.deliveries import Delivery, DeliveryRecord, Status, Wanted
from streams.trail import Step, age_of
from streams.transport import StreamLayout

__all__ = ["RecordedDeliveries"]

_ENDS: Final = frozenset({Status.DELIVERED, Status.DEAD})
_LOOKED_AT: Final = 500
#: Workers write the record behind the deliveries, each at its own time.
_LATE_MS: Final = 5_000


class RecordedDeliveries:
    """Says of each delivery of a capsule once how it ended.

    Arguments:
        layout: knows the topics of the sinks.
    """

    def __init__(self, client: redis.asyncio.Redis, layout: StreamLayout, capsule_id: str) -> None:
        self._record = DeliveryRecord(client, layout)
        self._sinks = [
            topic.removeprefix(HOOKS_PREFIX)
            for topic in layout.topics()
            if topic.startswith(HOOKS_PREFIX)
        ]
        self._capsule_id = capsule_id
        self._told: set[tuple[str, str, int]] = set()
        #: For how many source ids all of the record was read, and up to when it was read since.
        self._asked = 0
        self._seen_ms = 0

    async def look(self, source_ids: Set[str]) -> list[Step]:
        """Return the ends since the last look, of deliveries of these entries.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        since_ms = None if len(source_ids) != self._asked else self._seen_ms - _LATE_MS
        self._asked = len(source_ids)
        if not source_ids:
            return []
        steps: list[Step] = []
        wanted = Wanted(self._capsule_id, _ENDS, since_ms)
        for sink in self._sinks:
            found = await self._record.newest(sink, wanted, limit=_LOOKED_AT)
            for delivery in reversed(found):
                end = (sink, delivery.delivery_id, delivery.at_ms)
                if delivery.delivery_id in source_ids and end not in self._told:
                    self._told.add(end)
                    self._seen_ms = max(self._seen_ms, delivery.at_ms)
                    steps.append(_step(sink, delivery))
        return steps


def _step(sink: str, delivery: Delivery) -> Step:
    error = f": {excerpt(delivery.error)}" if delivery.error else ""
    return Step(
        delivery.at_ms / 1000,
        f"sink.{sink}",
        delivery.delivery_id,
        delivery.entry_id,
        delivery.capsule_id,
        delivery.type,
        delivery.status.value,
        age_of(delivery.delivery_id, delivery.at_ms / 1000),
        f"attempt {delivery.attempts}, {delivery.took_ms:,.0f} ms{error}",
    )
