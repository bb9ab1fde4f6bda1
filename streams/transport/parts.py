"""What is done with of entries that hold several messages and are not acknowledged yet.

An entry is acknowledged with the last of its messages. So that those which are done with are not
repeated when its partition goes to another worker, the old owner notes them in Redis before it lets
go, and the new one asks once, before it goes through what is pending. An entry may stay for long
for the sake of one message, so it is also noted once a second what has come to an end meanwhile: a
worker that dies has no more than that to be repeated, and what waits is counted by the message.

A hash for each partition (:meth:`StreamLayout.parts_key`): by the entry's id, the places of the
messages that are done with. What is noted of an entry is removed when it is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Final

import redis.asyncio
import structlog
from faust.types import TP

from .bundles import places_in, places_text
from .errors import TransportError, broker_errors
from .fleet import Holding
from .layout import Stream, StreamLayout
from .ledger import Ledger
from .lua import script

__all__ = ["Parts"]

log = structlog.get_logger(__name__)

_NOTE_EVERY_S: Final = 1.0


class Parts:
    """Notes parts of entries, and remembers them for who comes next.

    Arguments:
        holding: what is so in Redis while this worker holds a stream.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        layout: StreamLayout,
        ledger: Ledger,
        *,
        holding: Callable[[Stream], Holding],
    ) -> None:
        self._client = client
        self._layout = layout
        self._ledger = ledger
        self._holding = holding
        self._note_script = client.register_script(script("parts_note"))
        #: Entries of which something was noted before this term, until the pending ones were read.
        self._recalled: dict[TP, set[bytes]] = {}
        #: Held while something is noted, and while entries are acknowledged.
        self.lock: Final = asyncio.Lock()

    def watch(self, stream: Stream) -> None:
        """Nothing to do as a term begins."""

    def forget(self, stream: Stream) -> None:
        """Its term is over."""
        self._recalled.pop(stream.tp, None)

    async def recall(self, streams: Iterable[Stream]) -> None:
        """Have the ledger know what was noted of `streams`, once in each term.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        new = [s for s in streams if s.config.is_bundled and s.tp not in self._recalled]
        if not new:
            return
        pipeline = self._client.pipeline(transaction=False)
        for stream in new:
            pipeline.hgetall(self._layout.parts_key(stream.tp))
        with broker_errors("HGETALL"):
            found = await pipeline.execute()
        for stream, noted in zip(new, found, strict=True):
            self._recalled[stream.tp] = set(noted)
            self._ledger.recall(stream.tp, {i: places_in(places) for i, places in noted.items()})

    async def clear(self, stream: Stream) -> None:
        """Remove what was noted of entries that are not there: all that are have been read.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        recalled = self._recalled.get(stream.tp, set())
        if gone := [i for i in recalled if not self._ledger.is_in_hand(stream.tp, i)]:
            with broker_errors("HDEL"):
                await self._client.hdel(self._layout.parts_key(stream.tp).decode(), *gone)
        recalled.clear()

    async def run(self, held: Callable[[], Iterable[Stream]]) -> None:
        """Note once a second what is done with of what this worker holds, until cancelled."""
        while True:
            await asyncio.sleep(_NOTE_EVERY_S)
            await self.note(held())

    async def note(self, streams: Iterable[Stream]) -> None:
        """Note what is done with of entries of `streams` whose other messages are not.

        Without Redis they are repeated by whoever is next.
        """
        try:
            by_topic = sorted(streams, key=lambda stream: stream.tp)
            for topic, of_topic in groupby(by_topic, key=lambda stream: stream.tp.topic):
                async with self.lock:
                    await self._note_topic(topic, of_topic)
        except TransportError as exc:
            log.warning("parts not noted", action="parts_not_noted", error=str(exc))

    async def _note_topic(self, topic: str, streams: Iterable[Stream]) -> None:
        settled = {s: places for s in streams if (places := self._ledger.partly_settled(s.tp))}
        if not settled:
            return
        holdings = {stream: self._holding(stream) for stream in settled}
        ours = next(iter(holdings.values()))  # table and token are the same in all of them
        keys = [ours.owners_key, self._layout.counts_key(topic)]
        arguments: list[bytes | int] = [ours.token]
        for stream, places in settled.items():
            keys.append(self._layout.parts_key(stream.tp))
            arguments += (holdings[stream].partition, stream.tp.partition, len(places))
            for stream_id, of_entry in places.items():
                arguments += (stream_id, places_text(of_entry))
        with broker_errors("parts_note"):
            await self._note_script(keys, arguments)
        for stream, places in settled.items():
            self._ledger.noted(stream.tp, places)
