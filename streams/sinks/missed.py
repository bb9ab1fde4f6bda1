"""Which events of the producer's stream a new sink missed: those that took effect without it.

Of each capsule that is all up to its last entry that is done with. What is behind that is on its
way, and whoever deals with it tells the sink. Before it nothing is on its way but what comes twice,
since entries of a capsule are done with in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import redis.asyncio

from streams.dead_letters.record import DeadLetter
from streams.events import CapsuleEvent, EntryId, read_event
from streams.recorded_topics import CAPSULES, DEAD_LETTERS
from streams.topics import PAYLOAD_FIELD, SOURCE_ID
from streams.transport import Entry, StreamLayout, broker_errors
from streams.transport.entry import HEADER_PREFIX
from streams.undone import undone

__all__ = ["MissedEvents", "entries"]

_SOURCE_ID_FIELD: Final = HEADER_PREFIX + SOURCE_ID.encode()
_NEVER: Final = EntryId(0, 0)
_PAGE: Final = 500


class MissedEvents:
    """The events between two entries, as long as no worker is there.

    Arguments:
        source: the producer's stream.
        group: the consumer group of the app.
        layout: where the app's keys are.
        died: which of these entries are dead letters of the pipeline, so that no sink was told.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        source: str,
        group: str,
        layout: StreamLayout,
        died: Callable[[list[str]], set[str]],
        payload_max_bytes: int,
    ) -> None:
        self._client = client
        self._source = source.encode()
        self._group = group
        self._layout = layout
        self._died = died
        self._payload_max_bytes = payload_max_bytes

    async def oldest(self) -> str:
        """Return the oldest entry that the producer's stream has; empty: it has none."""
        with broker_errors("XRANGE"):
            oldest: Any = await self._client.xrange(self._source, "-", "+", 1)
        return oldest[0][0].decode() if oldest else ""

    async def pages(self, start: str, end: str) -> AsyncIterator[list[CapsuleEvent]]:
        """Give them in the order of the stream, page after page.

        Raises:
            TransportError, DatabaseUnavailableError: a server does not answer as it should.
        """
        last_done = await self._last_done(start, end)
        dying = await self._dying()
        page: list[CapsuleEvent] = []
        async for event in self._events(start, end):
            if event.succeeded and event.source_id <= last_done.get(event.capsule_key, _NEVER):
                page.append(event)
            if len(page) >= _PAGE:
                yield self._living(page, dying)
                page = []
        if page:
            yield self._living(page, dying)

    def _living(self, events: list[CapsuleEvent], dying: set[str]) -> list[CapsuleEvent]:
        died = dying | self._died([str(event.source_id) for event in events])
        return [event for event in events if str(event.source_id) not in died]

    async def _last_done(self, start: str, end: str) -> dict[bytes, EntryId]:
        """Return the last entry of each capsule that is done with."""
        on_the_way: set[EntryId] = set()
        async for page in undone(self._client, self._source, self._group):
            on_the_way.update(EntryId.parse(entry_id) for entry_id, _ in page)
        for stream in self._layout.streams(CAPSULES):
            parts_key = self._layout.parts_key(stream.tp)
            async for page in undone(self._client, stream.key, self._group, parts_key=parts_key):
                ids = (fields.get(_SOURCE_ID_FIELD) for _, fields in page)
                on_the_way.update(EntryId.parse(entry_id) for entry_id in ids if entry_id)
        last: dict[bytes, EntryId] = {}
        async for event in self._events(start, end):
            if event.source_id not in on_the_way:
                last[event.capsule_key] = event.source_id
        return last

    async def _dying(self) -> set[str]:
        """Return the entries whose dead letters are not in the table yet."""
        [stream] = self._layout.streams(DEAD_LETTERS)
        found: set[str] = set()
        async for page in undone(self._client, stream.key, self._group):
            letters = (DeadLetter.from_entry(Entry(stream.tp, i, f, 0)) for i, f in page)
            found.update(letter.source_id for letter in letters if not letter.sink)
        return found

    async def _events(self, start: str, end: str) -> AsyncIterator[CapsuleEvent]:
        async for entry_id, fields in entries(self._client, self._source, start, end):
            payload, limit = fields.get(PAYLOAD_FIELD), self._payload_max_bytes
            event = read_event(EntryId.parse(entry_id), payload, payload_max_bytes=limit)
            if isinstance(event, CapsuleEvent):
                yield event


async def entries(
    client: redis.asyncio.Redis, stream: bytes, start: str = "-", end: str = "+"
) -> AsyncIterator[tuple[bytes, dict[bytes, bytes]]]:
    """Give the entries of `stream` between, read page after page; raises TransportError."""
    after: str | bytes = start
    while True:
        with broker_errors("XRANGE"):
            page: Any = await client.xrange(stream, after, end, _PAGE)
        for entry_id, fields in page:
            yield entry_id, fields
        if len(page) < _PAGE:
            return
        after = b"(" + page[-1][0]
