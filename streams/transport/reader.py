"""Reading: one blocking XREADGROUP over all partitions that have room.

A partition is first read from its pending entries, oldest to newest, and only then from what
is new, so that what a dead owner left behind keeps its place in the order. All workers of an
app read under one consumer name: the lease makes sure that only one of them does at a time,
and so whatever is pending is the present owner's to finish, with nothing to claim and no name
to clean up after.

After a lost connection Redis may count entries as delivered whose delivery never arrived. So
the pending entries are read again after each failure, and now and then without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic

import redis.asyncio
import structlog
from faust.types import TP

from .connection import ReaderConnection
from .entry import Entry
from .errors import BrokerRefusedError, TransportError, broker_errors
from .layout import Stream, StreamLayout
from .lease import Ownership
from .ledger import Ledger
from .options import TransportOptions

__all__ = ["Reader"]

log = structlog.get_logger(__name__)

#: The name that every owner reads under.
CONSUMER = "owner"

Deliver = Callable[[TP, list[Entry]], Awaitable[None]]
Lose = Callable[[TP, list[bytes]], None]


class Reader:
    """Reads the streams this worker owns and hands on what is new to it.

    Arguments:
        client: connection pool for everything that does not block.
        group: the consumer group.
        deliver: takes the entries of one partition, in order.
        lose: is told the ids of entries that were trimmed while they were pending.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        layout: StreamLayout,
        ledger: Ledger,
        ownership: Ownership,
        *,
        group: str,
        options: TransportOptions,
        deliver: Deliver,
        lose: Lose,
    ) -> None:
        self._client = client
        self._layout = layout
        self._ledger = ledger
        self._ownership = ownership
        self._group = group
        self._options = options
        self._deliver = deliver
        self._lose = lose
        self._connection = ReaderConnection(client, timeout_s=options.timeout_s)
        self._streams: list[Stream] = []
        #: Partitions whose pending entries are being read, and up to which id they were.
        self._pending_after: dict[TP, bytes] = {}
        self._by_key: dict[bytes, Stream] = {}
        self._swept_at = 0.0
        self._changed = asyncio.Event()
        self._blocked = False
        self._unblocking: asyncio.Task[None] | None = None

    async def ensure_groups(
        self, streams: Iterable[Stream], *, start_id: str | None = None
    ) -> None:
        """Make each stream and its consumer group, where they are missing.

        Arguments:
            start_id: where a new group starts, in place of what the topic says.
        """
        for stream in streams:
            try:
                with broker_errors("XGROUP CREATE"):
                    await self._client.xgroup_create(
                        stream.key,
                        self._group,
                        id=start_id or stream.config.start_id,
                        mkstream=True,
                    )
            except BrokerRefusedError as exc:
                if not str(exc.__cause__).startswith("BUSYGROUP"):
                    raise

    def assign(self, streams: Iterable[Stream]) -> None:
        """Read `streams` from their pending entries on; begins a new term of ownership."""
        self._streams = list(streams)
        self._by_key = {stream.key: stream for stream in self._streams}
        self._ledger.begin_epoch(stream.tp for stream in self._streams)
        self.read_pending_again()

    def read_pending_again(self) -> None:
        """Go through the pending entries of all partitions before reading on."""
        self._pending_after = {stream.tp: b"0" for stream in self._streams}
        self._swept_at = monotonic()

    def wake(self) -> None:
        """Look again at what may be read: a partition has room, or the worker stops."""
        self._changed.set()
        if self._blocked and self._unblocking is None:
            self._unblocking = asyncio.get_running_loop().create_task(self._unblock())

    async def _unblock(self) -> None:
        try:
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
            TransportError: Redis is unreachable or refuses; call `read_pending_again` next.
        """
        self._changed.clear()
        if monotonic() - self._swept_at >= self._options.sweep_s:
            self.read_pending_again()
        roomy = [stream for stream in self._streams if self._ledger.has_room(stream.tp)]
        pending = [stream for stream in roomy if stream.tp in self._pending_after]
        if pending:
            await self._read_pending(pending)
            return
        if not roomy:
            await self._changed.wait()
            return
        await self._read_new(roomy)

    async def _read_pending(self, streams: list[Stream]) -> None:
        after = [self._pending_after[stream.tp] for stream in streams]
        by_key = await self._xreadgroup(streams, after, block_ms=None)
        for stream in streams:
            records = by_key.get(stream.key, [])
            if not records:
                del self._pending_after[stream.tp]
                continue
            self._pending_after[stream.tp] = records[-1][0]
            gone = [entry_id for entry_id, fields in records if fields is None]
            if gone:
                self._lose(stream.tp, gone)
            await self._hand_on(stream, records)

    async def _read_new(self, streams: list[Stream]) -> None:
        self._blocked = True
        try:
            by_key = await self._xreadgroup(
                streams, [b">"] * len(streams), block_ms=self._options.block_ms
            )
        finally:
            self._blocked = False
        for key, records in by_key.items():
            await self._hand_on(self._by_key[key], records)

    async def _hand_on(
        self, stream: Stream, records: list[tuple[bytes, list[bytes] | None]]
    ) -> None:
        entries = self._ledger.admit(
            stream.tp,
            ((entry_id, _as_mapping(fields)) for entry_id, fields in records if fields is not None),
        )
        if entries:
            await self._deliver(stream.tp, entries)

    async def _xreadgroup(
        self, streams: list[Stream], ids: list[bytes], *, block_ms: int | None
    ) -> dict[bytes, list[tuple[bytes, list[bytes] | None]]]:
        if not self._connection.is_open:
            await self._connection.open()
            await self._ownership.register_reader(self._connection.client_id)
        if not self._ownership.is_held():
            return {}
        block: tuple[bytes | int, ...] = () if block_ms is None else (b"BLOCK", block_ms)
        answer = await self._connection.execute(
            b"XREADGROUP",
            b"GROUP",
            self._group,
            CONSUMER,
            b"COUNT",
            self._options.fetch_count,
            *block,
            b"STREAMS",
            *(stream.key for stream in streams),
            *ids,
            wait_s=(block_ms or 0) / 1000,
        )
        return dict(answer or ())

    async def close(self) -> None:
        """Hang up."""
        if self._unblocking is not None:
            self._unblocking.cancel()
        await self._connection.close()


def _as_mapping(fields: list[bytes]) -> Mapping[bytes, bytes]:
    it = iter(fields)
    return dict(zip(it, it, strict=True))
