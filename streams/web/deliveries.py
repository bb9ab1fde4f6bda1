"""The last deliveries on the page: of one sink, or of one capsule at all sinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import redis.asyncio

from streams.ids import InvalidIdError, format_capsule_id, parse_capsule_id
from streams.sinks.deliveries import Delivery, DeliveryRecord, Status, Wanted
from streams.transport import StreamLayout
from streams.web.letters import BadQuestionError

__all__ = ["LIST_MAX", "SinkDelivery", "of_capsule", "of_sink", "parse_wanted"]

LIST_MAX: Final = 100
_WORD_CHARS: Final = 64


class SinkDelivery(NamedTuple):
    """A delivery, and to which sink it was."""

    sink: str
    delivery: Delivery


def parse_wanted(query: Mapping[str, str]) -> Wanted:
    """Read the form's fields; raises BadQuestionError."""
    capsule, status = query.get("capsule", "").strip(), query.get("status", "")
    if len(capsule) > _WORD_CHARS:
        raise BadQuestionError("capsule is no word that could be one")
    try:
        capsule_id = format_capsule_id(parse_capsule_id(capsule)) if capsule else None
    except InvalidIdError as exc:
        raise BadQuestionError(str(exc)) from None
    try:
        statuses = frozenset({Status(status)}) if status else None
    except ValueError:
        raise BadQuestionError("there is no such status") from None
    return Wanted(capsule_id, statuses)


async def of_sink(
    client: redis.asyncio.Redis, layout: StreamLayout, sink: str, wanted: Wanted
) -> list[SinkDelivery]:
    """Return the newest of a sink that are meant; raises TransportError."""
    found = await DeliveryRecord(client, layout).newest(sink, wanted, limit=LIST_MAX)
    return [SinkDelivery(sink, delivery) for delivery in found]


async def of_capsule(
    client: redis.asyncio.Redis, layout: StreamLayout, sinks: Iterable[str], capsule_id: str
) -> list[SinkDelivery]:
    """Return the newest of a capsule, at all of `sinks`; raises TransportError."""
    wanted = Wanted(capsule_id=capsule_id)
    found = [row for sink in sinks for row in await of_sink(client, layout, sink, wanted)]
    return sorted(found, key=lambda row: row.delivery.at_ms, reverse=True)[:LIST_MAX]
