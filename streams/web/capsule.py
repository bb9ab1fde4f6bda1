"""One capsule: its row, how far its events have taken effect, its dead letters, and what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
import redis.asyncio

from streams.events import EntryId
from streams.ids import excerpt, format_capsule_id, format_team_id, parse_capsule_id
from streams.postgres import Postgres
from streams.topics import SOURCE_ID
from streams.transport import Entry, Stream, StreamLayout, broker_errors, partition_of
from streams.web.deliveries import SinkDelivery, of_capsule

__all__ = ["History", "Waiting", "read_history"]

#: Dead letters are found by what is in them, which no index has: only the newest are looked at.
LETTERS_LOOKED_AT: Final = 10_000
_LETTERS_MAX: Final = 50
#: Entries of a partition that are looked at, from the oldest on, and those that are shown.
_ENTRIES_LOOKED_AT: Final = 5_000
_ENTRIES_MAX: Final = 100
_PAGE: Final = 100

_SELECT: Final = """
with newest as (
    select id, origin_id, stage, sink, reason, error, state, last_at, entry_key, payload
    from capsule_reconciler.dead_letters order by id desc limit %(looked_at)s
),
letters as (
    select id, origin_id, stage, sink, reason, error, state, last_at from newest
    where entry_key = %(key)s
       or (entry_key is null and position(%(text)s::bytea in payload) > 0)
    order by id desc limit %(letters_max)s
)
select
    (select row_to_json(s)::text from sandboxes s where s.id = %(id)s::uuid),
    (select row_to_json(w)::text from capsule_reconciler.watermarks w
     where w.capsule_id = %(id)s::uuid),
    (select json_agg(l order by l.id desc)::text from letters l)
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry of the capsule that is not done with."""

    stream: str
    entry_id: str
    source_id: str
    event: str
    #: Who has it, and since when nobody heard of it; empty: nobody has read it.
    consumer: str
    idle_s: float


@dataclass(frozen=True, slots=True)
class History:
    """What is known of one capsule, right now."""

    capsule_id: str
    uuid: str
    #: The row of `sandboxes`; None: there is none.
    row: dict[str, Any] | None
    #: The newest entry of the producer that took effect; empty: none did.
    watermark: str
    watermark_at: str
    letters: list[dict[str, Any]]
    waiting: list[Waiting]
    #: Those that are recorded, the newest first.
    deliveries: list[SinkDelivery]
    #: Partitions that are so full that not all of their entries were looked at.
    cut: list[str]


async def read_history(
    text: str,
    *,
    postgres: Postgres,
    client: redis.asyncio.Redis,
    layout: StreamLayout,
    topics: Iterable[str],
    sinks: Iterable[str],
    group: str,
) -> History:
    """Look once.

    Arguments:
        topics: ours that are by capsule, upstream first, so that what moves on is not missed.

    Raises:
        InvalidIdError: `text` is no capsule's id.
        TransportError, DatabaseError: a server does not answer as it should.
    """
    uuid = parse_capsule_id(text)
    capsule_id = format_capsule_id(uuid)
    waiting: list[Waiting] = []
    cut: list[str] = []
    for topic in topics:
        streams = layout.streams(topic)
        stream = streams[partition_of(uuid.bytes, len(streams))]
        name = f"{stream.tp.topic}:{stream.tp.partition}"
        found, is_cut = await _entries(client, stream, uuid.bytes)
        waiting += await _unfinished(client, stream, name, group, found)
        if is_cut:
            cut.append(name)
    row, mark, letters = await postgres.fetch_row(
        _SELECT,
        {
            "id": str(uuid),
            "key": uuid.bytes,
            "text": capsule_id.encode(),
            "looked_at": LETTERS_LOOKED_AT,
            "letters_max": _LETTERS_MAX,
        },
    )
    watermark = orjson.loads(mark) if mark else {}
    return History(
        capsule_id,
        str(uuid),
        _named(orjson.loads(row)) if row else None,
        f"{watermark['ms']}-{watermark['seq']}" if watermark else "",
        str(watermark.get("updated_at", "")),
        orjson.loads(letters) if letters else [],
        waiting,
        await of_capsule(client, layout, sinks, capsule_id),
        cut,
    )


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Add the team in the words of the control plane."""
    if row.get("team_id"):
        row["team_id"] = f"{format_team_id(UUID(row['team_id']))} ({row['team_id']})"
    return row


async def _entries(
    client: redis.asyncio.Redis, stream: Stream, key: bytes
) -> tuple[list[Entry], bool]:
    """Return the entries of the capsule, and whether there may be more."""
    found: list[Entry] = []
    start, looked_at = b"-", 0
    while looked_at < _ENTRIES_LOOKED_AT and len(found) < _ENTRIES_MAX:
        with broker_errors("XRANGE"):
            page: Any = await client.xrange(stream.key, start, "+", count=_PAGE)
        found += (Entry(stream.tp, i, f, 0) for i, f in page if f.get(b"k") == key)
        looked_at += len(page)
        if len(page) < _PAGE:
            return found, False
        start = b"(" + page[-1][0]
        await asyncio.sleep(0)  # a partition that is full must not hold the worker
    return found, True


async def _unfinished(
    client: redis.asyncio.Redis, stream: Stream, name: str, group: str, entries: list[Entry]
) -> list[Waiting]:
    """Leave out what is acknowledged and not trimmed away yet."""
    if not entries:
        return []
    with broker_errors("XINFO GROUPS"):
        groups = await client.xinfo_groups(stream.key)
    delivered = next(
        (info["last-delivered-id"] for info in groups if info["name"] == group.encode()), b"0-0"
    )
    found = []
    for entry in entries:
        consumer, idle_s = "", 0.0
        if EntryId.parse(entry.id) <= EntryId.parse(delivered):
            with broker_errors("XPENDING"):
                pending: Any = await client.xpending_range(
                    stream.key, group, min=entry.id, max=entry.id, count=1
                )
            if not pending:
                continue
            consumer = pending[0]["consumer"].decode("utf-8", "backslashreplace")
            idle_s = pending[0]["time_since_delivered"] / 1000
        found.append(
            Waiting(
                name,
                entry.id.decode(),
                (entry.header(SOURCE_ID) or b"").decode("utf-8", "backslashreplace"),
                _event(entry.value),
                consumer,
                idle_s,
            )
        )
    return found


def _event(payload: bytes | None) -> str:
    """What happened, as far as the payload says so: an event, or a delivery."""
    try:
        fields = orjson.loads(payload or b"")
        name = fields.get("event") or fields.get("type") or ""
        outcome = fields.get("outcome") or ""
    except (ValueError, AttributeError):
        return excerpt(payload or b"")
    return " ".join(str(part)[:80] for part in (name, outcome) if part)
