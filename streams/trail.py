"""Following entries through the streams without being a consumer: XREAD and XRANGE, no group.

What is read is what the stages have written, as far as it is still there: our own streams are
trimmed behind what is acknowledged, so an entry that passes between two reads is not seen in them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

import redis.asyncio

from streams.dead_letters.record import DeadLetter
from streams.events import CapsuleEvent, EntryId, SandboxEvent, Skip, read_event
from streams.ids import excerpt, format_capsule_id
from streams.recorded_topics import DEAD_LETTERS, HOOKS_PREFIX
from streams.topics import PAYLOAD_FIELD, SOURCE_ID
from streams.transport import Entry, Stream, broker_errors
from streams.transport.bundles import messages_of, stream_id_of

__all__ = ["Found", "Step", "belongs", "describe", "follow", "last_ids"]

#: Entries of each stream in one answer, at most.
_COUNT: Final = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to one entry."""

    #: When, in seconds since the epoch: by Redis' clock, or Postgres' for its tables.
    at_s: float
    #: Where: a stage's stream, ``<stream>:<partition>``, or ``postgres``.
    where: str
    #: The producer's entry that it is all about; empty: it cannot be told.
    source_id: str
    #: The entry in this stream.
    entry_id: str
    #: Empty: it is not about a capsule.
    capsule_id: str
    #: What the event is about, such as ``create``, in the words of the stream.
    verb: str
    #: What became of it here.
    outcome: str
    #: How long after the producer's entry.
    age_s: float | None
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``events tail --json`` prints."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that was read."""

    stream: Stream
    id: bytes
    fields: Mapping[bytes, bytes]

    @property
    def stream_id(self) -> bytes:
        """The id of the entry that it is, or that it is a part of."""
        return stream_id_of(self.id)

    @property
    def entry(self) -> Entry:
        """The entry as stages see it."""
        return Entry(self.stream.tp, self.id, self.fields, 0)

    @property
    def payload(self) -> bytes:
        """What it carries; empty if nothing."""
        if self.stream.is_ours:
            return self.entry.value or b""
        return self.fields.get(PAYLOAD_FIELD, b"")


async def last_ids(client: redis.asyncio.Redis, streams: Sequence[Stream]) -> dict[bytes, bytes]:
    """Return the id of the last entry of each stream, by its key, also where it is trimmed.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    found: dict[bytes, bytes] = {}
    with broker_errors("XINFO STREAM"):
        for stream in streams:
            if await client.exists(stream.key):
                info: Any = await client.xinfo_stream(stream.key)
                found[stream.key] = info["last-generated-id"]
            else:
                found[stream.key] = b"0-0"
    return found


async def follow(
    client: redis.asyncio.Redis,
    streams: Sequence[Stream],
    after: Mapping[bytes, bytes],
    *,
    block_ms: int,
) -> AsyncIterator[list[Found]]:
    """Give what comes in `streams` behind the ids in `after`; empty when nothing came for a while.

    The first empty list comes as soon as all is read that was there.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    by_key = {stream.key: stream for stream in streams}
    places = dict(after)
    blocking = False
    while True:
        block = ("BLOCK", block_ms) if blocking else ()
        with broker_errors("XREAD"):
            answer: Any = await client.execute_command(
                *("XREAD", "COUNT", _COUNT, *block, "STREAMS"), *by_key, *map(places.get, by_key)
            )
        found: list[Found] = []
        for key, entries in answer or ():
            places[key] = entries[-1][0]
            found += (
                Found(by_key[key], message_id, of_message)
                for entry_id, fields in entries
                for message_id, of_message in messages_of(entry_id, fields or {})
            )
        blocking = not found
        yield sorted(found, key=lambda one: EntryId.parse(one.stream_id))


def belongs(found: Found, capsule_id: UUID, source_ids: set[str]) -> bool:
    """Whether an entry is about a capsule; `source_ids` are those known to be."""
    entry = found.entry
    topic = found.stream.tp.topic
    if found.stream.is_ours and topic != DEAD_LETTERS:
        return entry.key == capsule_id.bytes
    text = format_capsule_id(capsule_id).encode()
    # A text with escapes may be the same id, written otherwise.
    may_be = text in found.payload or b"\\" in found.payload
    if topic == DEAD_LETTERS:
        letter = DeadLetter.from_entry(entry)
        return (
            letter.key == capsule_id.bytes
            or letter.source_id in source_ids
            or text in found.payload
        )
    if not may_be:
        return False
    event = read_event(EntryId.parse(found.stream_id), found.payload)
    return (
        event.capsule_id == capsule_id if isinstance(event, CapsuleEvent) else text in found.payload
    )


def describe(found: Found, *, payload_max_bytes: int) -> Step:
    """Say what an entry is; its bytes may be anything."""
    topic = found.stream.tp.topic
    if not found.stream.is_ours:
        return _of_event(found, found.id.decode(), payload_max_bytes, "arrived")
    if topic == DEAD_LETTERS:
        letter = DeadLetter.from_entry(found.entry)
        about = f"{letter.sink and f'sink {letter.sink}, '}{letter.reason}: {letter.error}"
        return _step(found, letter.source_id, "", letter.stage, "dead", about)
    source_id = (found.entry.header(SOURCE_ID) or b"").decode("ascii", "backslashreplace")
    if topic.startswith(HOOKS_PREFIX):
        try:
            event = SandboxEvent.from_bytes(found.payload)
        except ValueError as exc:
            return _step(found, source_id, "", "", "bad", str(exc))
        return _step(
            found, source_id, format_capsule_id(event.capsule_id), event.type, "to deliver"
        )
    return _of_event(found, source_id, payload_max_bytes, "routed")


def _of_event(found: Found, source_id: str, payload_max_bytes: int, outcome: str) -> Step:
    event = read_event(
        EntryId.parse(found.stream_id), found.payload, payload_max_bytes=payload_max_bytes
    )
    if isinstance(event, Skip):
        return _step(found, source_id, "", "", "skip", event.rule.value)
    if not isinstance(event, CapsuleEvent):
        return _step(found, source_id, "", "", "bad", str(event))
    detail = "success" if event.succeeded else f"failed: {excerpt(event.reason or event.error)}"
    capsule_id = format_capsule_id(event.capsule_id)
    return _step(found, source_id, capsule_id, event.verb.value, outcome, detail)


def _step(
    found: Found, source_id: str, capsule_id: str, verb: str, outcome: str, detail: str = ""
) -> Step:
    stream = found.stream
    where = f"{stream.tp.topic}:{stream.tp.partition}" if stream.is_ours else stream.tp.topic
    at_ms = EntryId.parse(found.stream_id).ms
    return Step(
        at_ms / 1000,
        where,
        source_id,
        found.id.decode(),
        capsule_id,
        verb,
        outcome,
        age_of(source_id, at_ms / 1000),
        detail,
    )


def age_of(source_id: str, at_s: float) -> float | None:
    """Return how long after the producer's entry `at_s` is; None: it has no such id."""
    try:
        return round(at_s - EntryId.parse(source_id).ms / 1000, 3)
    except ValueError:
        return None
