"""How much waits in each partition of our own topics: cheap enough to ask every second.

:mod:`streams.figures.backlog` says more, and costs more; here is no age, and nothing of the
producer's.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Final

import redis.asyncio
from faust.types import TP

from streams.transport import StreamLayout, broker_errors

__all__ = ["read_depths"]

_SCRIPT: Final = resources.files("streams.lua").joinpath("depths.lua").read_text("utf-8")


async def read_depths(
    client: redis.asyncio.Redis, layout: StreamLayout, topics: Iterable[str], *, group: str
) -> dict[TP, int]:
    """Return how many messages of each partition are unread or pending, at one moment.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    streams = list(layout.all_streams(topics))
    if not streams:
        return {}
    # Asked every second, by its hash: the text is sent once.
    script = client.register_script(_SCRIPT)
    with broker_errors("depths"):
        found = await script(
            keys=[
                *(stream.key for stream in streams),
                *(layout.counts_key(stream.tp.topic) for stream in streams),
            ],
            args=[group, *(stream.tp.partition for stream in streams)],
        )
    return {stream.tp: _depth(*answer) for stream, answer in zip(streams, found, strict=True)}


def _depth(length: int, pending: int, unread: int, counted: int) -> int:
    # Where the server does not count what is unread, what was acknowledged behind something that
    # is pending is counted with it: rather too much than too little.
    entries = length if unread < 0 else pending + unread
    # Each holds a message at least; none that is not done with, none at all.
    return max(entries, counted)
