"""What is left to do of a stream: entries that nobody has read, or that are pending."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeAlias

import redis.asyncio

from streams.events import EntryId
from streams.transport import BrokerRefusedError, broker_errors
from streams.transport.bundles import messages_of, place_of, places_in

__all__ = ["Fields", "undone"]

_PAGE: Final = 1_000

Fields: TypeAlias = Mapping[bytes, bytes]


async def undone(
    client: redis.asyncio.Redis, stream: bytes, group: str, *, parts_key: bytes | None = None
) -> AsyncIterator[list[tuple[bytes, Fields]]]:
    """Give what is not acknowledged of `stream`, in order, page after page.

    Of an entry with several messages each is given, but for those that are noted under `parts_key`.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    try:
        with broker_errors("XINFO GROUPS"):
            groups = await client.xinfo_groups(stream)
    except BrokerRefusedError as exc:
        if "no such key" in str(exc):
            return
        raise
    read_up_to, pending = EntryId(0, 0), set[bytes]()
    done: dict[bytes, frozenset[bytes]] = {}
    if parts_key is not None:
        with broker_errors("HGETALL"):
            noted: dict[Any, Any] = await client.hgetall(parts_key.decode())
        done = {stream_id: places_in(places) for stream_id, places in noted.items()}
    for about in groups:
        if about["name"] == group.encode():
            read_up_to = EntryId.parse(about["last-delivered-id"])
            pending = await _pending(client, stream, group)
    after = b"-"
    while True:
        with broker_errors("XRANGE"):
            page: Any = await client.xrange(stream, after, "+", _PAGE)
        if left := [
            message
            for i, fields in page
            if i in pending or EntryId.parse(i) > read_up_to
            for message in messages_of(i, fields)
            if place_of(message[0]) not in done.get(i, ())
        ]:
            yield left
        if len(page) < _PAGE:
            return
        after = b"(" + page[-1][0]


async def _pending(client: redis.asyncio.Redis, stream: bytes, group: str) -> set[bytes]:
    pending: set[bytes] = set()
    after = b"-"
    while True:
        with broker_errors("XPENDING"):
            page: Any = await client.xpending_range(stream, group, after, b"+", _PAGE)
        pending.update(about["message_id"] for about in page)
        if len(page) < _PAGE:
            return pending
        after = b"(" + page[-1]["message_id"]
