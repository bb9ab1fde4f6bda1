"""What is done with of entries that hold several messages and are not acknowledged yet.

An entry is acknowledged with the last of its messages. So that those which are done with are not
repeated when its partition goes to another worker, the old owner notes them in Redis before it lets
go, and the new one asks once, before it goes through what is pending. A worker that dies notes
nothing, and what it had done of such entries is repeated like anything that was not acknowledged.

A hash for each partition (:meth:`StreamLayout.parts_key`): by the entry's id, the places of the
messages that are done with. What is noted of an entry is removed when it is acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable

import redis.asyncio
import structlog
from faust.types import TP

from .errors import TransportError, broker_errors
from .layout import Stream, StreamLayout
from .ledger import Ledger

__all__ = ["Parts"]

log = structlog.get_logger(__name__)


class Parts:
    """Notes parts of entries, and remembers them for who comes next."""

    def __init__(self, client: redis.asyncio.Redis, layout: StreamLayout, ledger: Ledger) -> None:
        self._client = client
        self._layout = layout
        self._ledger = ledger
        #: What Redis has of entries of this term.
        self._noted: dict[TP, set[bytes]] = {}

    def watch(self, stream: Stream) -> None:
        """Nothing to do as a term begins."""

    def forget(self, stream: Stream) -> None:
        """Its term is over."""
        self._noted.pop(stream.tp, None)

    async def recall(self, streams: Iterable[Stream]) -> None:
        """Have the ledger know what was noted of `streams`, once in each term.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        new = [s for s in streams if s.config.bundle_max > 1 and s.tp not in self._noted]
        if not new:
            return
        pipeline = self._client.pipeline(transaction=False)
        for stream in new:
            pipeline.hgetall(self._layout.parts_key(stream.tp))
        with broker_errors("HGETALL"):
            found = await pipeline.execute()
        for stream, noted in zip(new, found, strict=True):
            self._noted[stream.tp] = set(noted)
            self._ledger.recall(
                stream.tp, {i: frozenset(places.split(b",")) for i, places in noted.items()}
            )

    async def note(self, streams: Iterable[Stream]) -> None:
        """Note what is done with of entries of `streams` whose other messages are left to others.

        Without Redis they are repeated by whoever is next.
        """
        pipeline = self._client.pipeline(transaction=False)
        for stream in streams:
            if places := self._ledger.partly_settled(stream.tp):
                for stream_id, of_entry in places.items():
                    key = self._layout.parts_key(stream.tp)
                    pipeline.execute_command("HSET", key, stream_id, b",".join(of_entry))
        if not pipeline.command_stack:
            return
        try:
            with broker_errors("HSET"):
                await pipeline.execute()
        except TransportError as exc:
            log.warning("parts not noted", action="parts_not_noted", error=str(exc))

    async def clear(self, stream: Stream) -> None:
        """Remove what is noted of entries that are not pending: all that are have been read.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        noted = self._noted.get(stream.tp, set())
        await self.acknowledged(
            stream.tp, [i for i in noted if not self._ledger.is_in_hand(stream.tp, i)]
        )

    async def acknowledged(self, tp: TP, ids: Iterable[bytes]) -> None:
        """Remove what is noted of `ids`.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        if gone := self._noted.get(tp, set()).intersection(ids):
            with broker_errors("HDEL"):
                await self._client.hdel(self._layout.parts_key(tp), *gone)
            self._noted[tp].difference_update(gone)
