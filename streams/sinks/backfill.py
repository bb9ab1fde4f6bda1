"""A new sink's past: events that took effect before it was there, put into its topic.

A sink is given what the verb agents send from the moment the workers have it. What it missed before
(:mod:`streams.sinks.missed`) must come first, capsule by capsule. So it is put into the topic while
no worker is there, and only if nobody was given anything of that topic yet. What the workers send
when they are started comes behind it; what they send of it once more has the same delivery id.

It is gathered in streams of other names, which then become the topic in one transaction: a run that
is cut off has done nothing, a worker that starts meanwhile makes it fail, and until a worker has
started, it may be done again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio
from redis.exceptions import WatchError

from streams.errors import ReconcilerError
from streams.events import CapsuleEvent, EntryId, sandbox_event
from streams.presence import living_workers
from streams.recorded_topics import CAPSULES, HOOKS_PREFIX
from streams.sinks.keys import staged_keys
from streams.sinks.missed import MissedEvents, entries
from streams.sinks.retired import RETIRED
from streams.topics import SOURCE_ID
from streams.transport import Stream, StreamLayout, broker_errors, partition_of
from streams.transport.bundles import added_field
from streams.transport.entry import HEADER_PREFIX, encode_fields

__all__ = ["BACKFILL", "BackfillError", "Filled", "SinkBackfill"]

#: The header of an entry that was put there.
BACKFILL: Final = "backfill"
_MARK: Final = HEADER_PREFIX + BACKFILL.encode()


class BackfillError(ReconcilerError):
    """It cannot be done as things are; nothing was."""


@dataclass(slots=True)
class Filled:
    """What was put into the topic, or would be."""

    events: int = 0
    capsules: set[bytes] = field(default_factory=set)
    first_id: str = ""
    last_id: str = ""

    def add(self, events: list[CapsuleEvent]) -> None:
        """Count `events`, which come behind those before."""
        if events:
            self.events += len(events)
            self.capsules.update(event.capsule_key for event in events)
            self.first_id = self.first_id or str(events[0].source_id)
            self.last_id = str(events[-1].source_id)


class SinkBackfill:
    """One sink's past.

    Arguments:
        group: the consumer group of the app.
        layout: where the app's keys are.
        silence_s: after how long without a beat a worker is dead.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        sink: str,
        missed: MissedEvents,
        *,
        group: str,
        layout: StreamLayout,
        silence_s: float,
    ) -> None:
        self._client = client
        self._sink = sink
        self._missed = missed
        self._group = group
        self._layout = layout
        self._silence_s = silence_s
        self._topic = f"{HOOKS_PREFIX}{sink}"
        self._streams = layout.streams(self._topic)
        self._staged = staged_keys(layout, sink)[: len(self._streams)]

    async def run(self, start: str, end: str, *, apply: bool) -> Filled:
        """Look which events there are between the entries `start` and `end`; send them if `apply`.

        Raises:
            BackfillError: it cannot be done now.
            TransportError, DatabaseUnavailableError: a server does not answer as it should.
        """
        async with self._client.pipeline(transaction=True) as transaction:
            names = ("topics", "fleet:members", "fleet:beats", "fleet:owners")
            with broker_errors("WATCH"):
                await transaction.watch(
                    *map(self._layout.name, names), *(stream.key for stream in self._streams)
                )
            await self._check_partitions()
            await self._check_nobody_is_there()
            for stream in self._streams:
                await self._check_is_new(stream)
            filled = Filled()
            try:
                await self._clear_staged()  # a run that was killed may have left some
                async for events in self._missed.pages(start, end):
                    filled.add(events)
                    if apply:
                        await self._stage(events)
                if apply:
                    await self._put_in_place(transaction)
            finally:
                await self._clear_staged()
        return filled

    async def _check_partitions(self) -> None:
        """See that the topic will be as the workers record it."""
        topics = self._layout.name("topics").decode()
        with broker_errors("HMGET"):
            recorded = await self._client.hmget(topics, [CAPSULES, self._topic])
        if recorded[0] is None:
            raise BackfillError("no worker has ever read: the sink will miss nothing")
        here = len(self._streams)
        if any(number is not None and int(number) != here for number in recorded):
            raise BackfillError(
                f"there are {int(recorded[0])} partitions in Redis and {here} in the settings of"
                " this command: give it those of the workers"
            )

    async def _check_nobody_is_there(self) -> None:
        workers = await living_workers(self._client, self._layout, silence_s=self._silence_s)
        if workers:
            raise BackfillError(f"stop all workers first: {', '.join(workers)}")

    async def _check_is_new(self, stream: Stream) -> None:
        """See that nobody was given anything of `stream`, nor will be, but by a run before."""
        with broker_errors("XINFO GROUPS"):
            if not await self._client.exists(stream.key):
                return
            groups: Any = await self._client.xinfo_groups(stream.key)
        is_old = any(EntryId.parse(group["last-delivered-id"]) > (0, 0) for group in groups)
        async for _, fields in entries(self._client, stream.key):
            is_old = is_old or _MARK not in fields
        if is_old:
            raise BackfillError(
                f"{self._sink} was sent events already, and older ones would come behind them:"
                " retire it and add it anew, or add a sink of another name"
            )

    async def _stage(self, events: list[CapsuleEvent]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for event in events:
            key = event.capsule_key
            value = sandbox_event(event, now=_moment(event.source_id)).to_bytes()
            headers = {SOURCE_ID: str(event.source_id).encode(), BACKFILL: b"1"}
            stream = self._staged[partition_of(key, len(self._staged))]
            pipeline.execute_command("XADD", stream, "*", *encode_fields(key, value, headers))
        with broker_errors("XADD"):
            await pipeline.execute()

    async def _clear_staged(self) -> None:
        with broker_errors("DEL"):
            await self._client.delete(*self._staged)

    async def _put_in_place(self, transaction: Any) -> None:
        moves: list[tuple[bytes, Stream]] = []
        counts: dict[str, int] = {}
        for key, stream in zip(self._staged, self._streams, strict=True):
            with broker_errors("XGROUP CREATE"):
                if await self._client.exists(key):
                    await self._client.xgroup_create(key, self._group, id="0")
                    moves.append((key, stream))
                    counts[added_field(stream.tp.partition)] = await self._client.xlen(key)
        transaction.multi()
        transaction.hset(self._layout.name("topics"), self._topic, str(len(self._streams)))
        transaction.hdel(self._layout.name(RETIRED).decode(), self._sink)
        counts_key = self._layout.counts_key(self._topic)
        transaction.delete(counts_key, *(stream.key for stream in self._streams))
        if counts:
            transaction.hset(counts_key.decode(), mapping=counts)
        for key, stream in moves:
            transaction.rename(key, stream.key)
        with broker_errors("EXEC"):
            try:
                await transaction.execute()
            except WatchError as exc:
                raise BackfillError("a worker has started meanwhile; nothing was sent") from exc


def _moment(entry_id: EntryId) -> datetime:
    """When an entry came: what an event without a usable time has, the same in each run."""
    try:
        return datetime.fromtimestamp(entry_id.ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
