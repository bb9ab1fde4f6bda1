"""The oldest entry of the producer that has not taken effect yet, wherever it is on its way."""

from __future__ import annotations

from typing import Any

import redis.asyncio

from streams.events import EntryId
from streams.topics import SOURCE_ID, Topics
from streams.transport import Stream, StreamLayout, broker_errors
from streams.transport.bundles import messages_of

__all__ = ["oldest_unfinished"]

_NEVER = EntryId(0, 0)
_SOURCE_ID_FIELD = f"h:{SOURCE_ID}".encode()


async def oldest_unfinished(
    client: redis.asyncio.Redis, layout: StreamLayout, topics: Topics, *, group: str
) -> EntryId | None:
    """Return the source id of the oldest entry that is unread or pending; None: there is none.

    Looks upstream first, so that no entry passes unseen. Each stream is in the order of the source
    but for a batch that was routed twice. An entry of ours that does not say where it is from, or
    is gone, counts as the oldest there can be. Raises TransportError.
    """
    found: list[EntryId] = []
    names = [topic.get_topic_name() for topic in (topics.source, topics.capsules)]
    for stream in layout.all_streams(names):
        found += await _first_ids(client, stream, group)
    return min(found, default=None)


async def _first_ids(client: redis.asyncio.Redis, stream: Stream, group: str) -> list[EntryId]:
    """Return the source ids of the first pending entry and of the first unread one."""
    with broker_errors("XINFO GROUPS"):
        if not await client.exists(stream.key):
            return []
        groups = await client.xinfo_groups(stream.key)
    delivered = next(
        (info["last-delivered-id"] for info in groups if info["name"] == group.encode()), None
    )
    found: list[EntryId] = []
    # What is delivered from here on is still among the unread ones below.
    after = b"-" if delivered is None else b"(" + delivered
    if delivered is not None:
        with broker_errors("XPENDING"):
            pending: Any = await client.xpending(stream.key, group)
        if pending["min"] is not None:
            found += await _source_ids(client, stream, pending["min"], pending["min"])
            if not found:
                found.append(_NEVER if stream.is_ours else EntryId.parse(pending["min"]))
    return found + await _source_ids(client, stream, after, b"+")


async def _source_ids(
    client: redis.asyncio.Redis, stream: Stream, start: bytes, end: bytes
) -> list[EntryId]:
    """Return the source ids in the first entry between, if there is one."""
    with broker_errors("XRANGE"):
        entries: Any = await client.execute_command("XRANGE", stream.key, start, end, "COUNT", 1)
    if not stream.is_ours:
        return [EntryId.parse(entry_id) for entry_id, _ in entries]
    messages = (message for entry in entries for message in messages_of(*entry))
    texts = (fields.get(_SOURCE_ID_FIELD) for _, fields in messages)
    return [_NEVER if text is None else EntryId.parse(text) for text in texts]
