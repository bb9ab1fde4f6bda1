"""Reading: one blocking XREADGROUP over all partitions that have room.

A partition is first read from its pending entries, and only then from what is new
(:mod:`.pending`). All workers of an app read under one consumer name: the lease makes sure that
only one of them does at a time, and so whatever is pending is the present owner's to finish, with
nothing to claim and no name to clean up after.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from math import ceil

import redis.asyncio
import structlog
from faust.types import TP

from .connection import ReaderConnection
from .entry import Entry
from .errors import TransportError, broker_errors
from .layout import Stream, StreamLayout
from .ledger import Ledger
from .lua import script
from .options import TransportOptions
from .pacing import Pacing
from .parts import Parts
from .pending import Lose, PendingEntries, Records
from .positions import CONSUMER, Positions

__all__ = ["Reader"]

log = structlog.get_logger(__name__)

Deliver = Callable[[TP, list[Entry]], Awaitable[None]]


class Reader:
    """Reads the streams this worker owns and hands on what is new to it.

    Arguments:
        client: connection pool for everything that does not block.
        group: the consumer group.
        deliver: takes the entries of one partition, in order.
        may_read: whether what this worker holds is safely its own at this moment.
        register: is told of each new connection, before anything is read over it.
        lose: is told the ids of entries that were trimmed while they were pending.
        positions: counts what is read of streams that others trim.
        parts: knows what is done with of entries that hold several messages.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        layout: StreamLayout,
        ledger: Ledger,
        *,
        group: str,
        options: TransportOptions,
        deliver: Deliver,
        lose: Lose,
        positions: Positions,
        parts: Parts,
        may_read: Callable[[], bool],
        register: Callable[[int], Awaitable[None]],
    ) -> None:
        self._client = client
        self._layout = layout
        self._ledger = ledger
        self._may_read = may_read
        self._register = register
        self._group = group
        self._options = options
        self._deliver = deliver
        self._positions = positions
        self._connection = ReaderConnection(client, timeout_s=options.timeout_s)
        #: Whether the fleet knows the connection.
        self._registered = False
        #: What is read, by key.
        self._streams: dict[bytes, Stream] = {}
        #: Those of them that somebody else writes.
        self._theirs: dict[bytes, Stream] = {}
        #: The keys in the read that is under way.
        self._reading: frozenset[bytes] = frozenset()
        self._read_over = asyncio.Event()
        self._remove_consumer = client.register_script(script("consumer_remove"))
        self._pending = PendingEntries(
            ledger,
            parts,
            sweep_s=options.sweep_s,
            read=self._xreadgroup,
            read_size=self._count,
            count_max=options.fetch_count,
            hand_on=self._hand_on,
            lose=lose,
        )
        #: Partitions of which nothing new is read for now.
        self._held_back: set[TP] = set()
        self._pacing = Pacing(gather_ms=options.gather_ms)
        #: Streams of which little was asked for, since it was asked for together with bundles.
        self._cut_short: list[Stream] = []
        #: Whether the reader has stopped because what is held is not safely ours.
        self.waits_to_read = False
        self._changed = asyncio.Event()
        self._blocked = False
        self._unblocking: asyncio.Task[None] | None = None

    def add(self, streams: Iterable[Stream]) -> None:
        """Read `streams` from now on, from their pending entries on."""
        streams = list(streams)
        self._streams |= {stream.key: stream for stream in streams}
        self._theirs |= {stream.key: stream for stream in streams if not stream.is_ours}
        self._go_through(streams)
        self.wake()

    def forget(self, stream: Stream) -> None:
        """Read `stream` no more, from the next read on."""
        self._streams.pop(stream.key, None)
        self._theirs.pop(stream.key, None)
        self._pending.forget(stream)
        self._held_back.discard(stream.tp)
        self._pacing.forget(stream.tp)

    async def remove(self, streams: Iterable[Stream]) -> None:
        """Read `streams` no more, and wait for a read that is under way."""
        keys = set()
        for stream in streams:
            self.forget(stream)
            keys.add(stream.key)
        while keys & self._reading:
            self._read_over.clear()
            self.wake()
            await self._read_over.wait()

    async def retire_names(self, streams: Iterable[Stream]) -> None:
        """Remove our name from the groups of `streams` under which nothing is pending.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        async with self._client.pipeline(transaction=False) as pipeline:
            for stream in streams:
                await self._remove_consumer(
                    keys=[stream.key], args=[self._group, CONSUMER, 0], client=pipeline
                )
            with broker_errors("XGROUP DELCONSUMER"):
                await pipeline.execute()

    def hold_back(self, stream: Stream) -> None:
        """Read of `stream` only what is pending, until `let_go`."""
        self._held_back.add(stream.tp)

    def let_go(self, stream: Stream) -> None:
        """Read what is new of `stream` as well."""
        self._held_back.discard(stream.tp)
        self.wake()

    def read_pending_again(self, stream: Stream | None = None) -> None:
        """Go through the pending entries, of all partitions or of one, before reading on."""
        if stream is None:
            self._go_through(self._streams.values())
        elif stream.key in self._streams:
            self._go_through([stream])
            self.wake()

    def _go_through(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            self._positions.must_check(stream)
            self._pending.begin(stream)

    def wake(self) -> None:
        """Look again at what may be read: a partition has room, or the worker stops."""
        self._changed.set()
        if self._blocked and self._unblocking is None:
            self._unblocking = asyncio.get_running_loop().create_task(self._unblock())

    async def _unblock(self) -> None:
        try:
            # Until the reader has looked: by the time Redis answers, the read that was meant may
            # be over, and the one that waits now may not know of what has changed since.
            while self._blocked and self._changed.is_set():
                with broker_errors("CLIENT UNBLOCK"):
                    await self._client.client_unblock(self._connection.client_id)
        except TransportError as exc:
            # The read ends by itself after its BLOCK time.
            log.debug("reader not unblocked", action="unblock_failed", error=str(exc))
        finally:
            self._unblocking = None

    async def read(self) -> None:
        """Read once, as soon as a partition has room, and hand on what came.

        Raises:
            GroupLostError: a stream or its group is gone; make it anew and call the same.
            TransportError: Redis is unreachable or refuses; call `read_pending_again` next.
        """
        await self._connect()
        await self._positions.check(list(self._theirs.values()))
        # From here to the command nothing is awaited: no change goes unnoticed by it.
        self._changed.clear()
        if not self._may_read():
            # Nothing is held, or not safely: the coordinator wakes us when that changes.
            self.waits_to_read = True
            try:
                await self._changed.wait()
            finally:
                self.waits_to_read = False
            return
        self._go_through(self._pending.due())
        if not all(map(self._positions.may_hand_on, self._theirs.values())):
            return  # check first
        roomy = self._ledger.with_room(self._streams.values())
        if pending := self._pending.left(roomy):
            await self._pending.go_on(pending)
            return
        readable = roomy
        if self._held_back:
            readable = [stream for stream in roomy if stream.tp not in self._held_back]
        if not readable:
            await self._changed.wait()
            return
        ready, gathers_s = self._pacing.ready(readable)
        if not ready:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(gathers_s):
                    await self._changed.wait()
            return
        cut_short, self._cut_short = self._cut_short, []
        if more := [stream for stream in cut_short if stream in ready]:
            await self._read_new(more, block_ms=None)
            return
        if alone := self._pacing.alone(ready):
            await self._read_new(alone, block_ms=None)
            return
        await self._read_new(ready, block_ms=ceil(gathers_s * 1000) or self._options.block_ms)

    async def _read_new(self, streams: list[Stream], *, block_ms: int | None) -> None:
        count = self._count(streams)
        self._blocked = block_ms is not None
        try:
            by_key = await self._xreadgroup(
                streams, [b">"] * len(streams), count, block_ms=block_ms
            )
        finally:
            self._blocked = False
        for stream in streams:
            came = by_key.get(stream.key, [])
            full = len(came) >= count
            if full and count < self._options.fetch_count and _is_plain(stream):
                self._cut_short.append(stream)
            if came:
                self._positions.advance(stream, came[-1][0], len(came), full=full)
            if not stream.is_ours:
                self._pacing.note(stream.tp, len(came), full=full)
        for stream in streams:
            if records := by_key.get(stream.key):
                await self._hand_on(stream, records)

    async def _hand_on(self, stream: Stream, records: Records) -> None:
        entries = self._ledger.admit(
            stream.tp,
            ((entry_id, fields) for entry_id, fields in records if fields is not None),
        )
        if entries:
            await self._deliver(stream.tp, entries)

    async def _connect(self) -> None:
        if not self._connection.is_open:
            await self._connection.open()
            self._registered = False
        if not self._registered:
            await self._register(self._connection.client_id)
            self._registered = True

    async def _xreadgroup(
        self, streams: list[Stream], ids: list[bytes], count: int, *, block_ms: int | None = None
    ) -> dict[bytes, Records]:
        self._reading = frozenset(stream.key for stream in streams)
        try:
            block: tuple[bytes | int, ...] = () if block_ms is None else (b"BLOCK", block_ms)
            answer = await self._connection.execute(
                b"XREADGROUP",
                b"GROUP",
                self._group,
                CONSUMER,
                b"COUNT",
                count,
                *block,
                b"STREAMS",
                *(stream.key for stream in streams),
                *ids,
                wait_s=(block_ms or 0) / 1000,
            )
        finally:
            self._reading = frozenset()
            self._read_over.set()
        return dict(answer or ())

    def _count(self, streams: list[Stream]) -> int:
        """How many entries of each stream to ask for: so few that what is in them fits."""
        bundle_max = max(stream.config.bundle_max for stream in streams)
        return max(self._options.fetch_count // bundle_max, 1)

    async def close(self) -> None:
        """Hang up."""
        if self._unblocking is not None:
            self._unblocking.cancel()
        await self._connection.close()


def _is_plain(stream: Stream) -> bool:
    """Whether it is one of ours whose entries are one message each."""
    return stream.is_ours and not stream.config.is_bundled
