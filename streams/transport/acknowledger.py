"""XACK in batches, and trimming behind what is acknowledged.

This is the only place that acknowledges. It sends what was settled while the last batch was
on its way, and some milliseconds beyond that (`TransportOptions.ack_gather_ms`), so batches grow
with the load and an idle worker acknowledges at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic

import redis.asyncio
import structlog
from faust.types import TP
from redis.asyncio.client import Pipeline

from .entry import Entry
from .errors import TransportError, broker_errors
from .layout import Stream, StreamLayout
from .ledger import Ledger
from .lua import script
from .options import TransportOptions
from .parts import Parts
from .positions import Positions
from .trouble import Trouble

__all__ = ["Acknowledger"]

log = structlog.get_logger(__name__)

#: Ids per XACK: keeps one command short enough not to hold up the server.
_IDS_PER_COMMAND = 1_000


class Acknowledger:
    """Acknowledges settled entries and trims the app's own streams.

    Arguments:
        client: connection pool for XACK and XTRIM.
        group: the consumer group.
        positions: knows how far streams are read whose entries are counted.
        parts: keeps what is done with of entries that are not acknowledged.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        layout: StreamLayout,
        ledger: Ledger,
        *,
        group: str,
        options: TransportOptions,
        positions: Positions,
        parts: Parts,
    ) -> None:
        self._client = client
        self._layout = layout
        self._ledger = ledger
        self._group = group
        self._options = options
        self._positions = positions
        self._parts = parts
        self._acknowledge_bundles = client.register_script(script("ack_bundles"))
        self._heal_counts = client.register_script(script("counts_heal"))
        self._acknowledge_counted = client.register_script(script("position_ack"))
        self._settled: dict[TP, list[bytes]] = {}
        self._untrimmed: set[TP] = set()
        self._trimmed_at = 0.0
        self._sent_at = 0.0
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushed.set()
        #: Entries acknowledged by this worker so far.
        self.total = 0
        self.trouble = Trouble()

    def settle(self, entries: Iterable[Entry]) -> None:
        """Acknowledge `entries` soon; their effects must be durable."""
        for tp, ids in self._ledger.settle(entries).items():
            if ids:  # else others of the same bundle are not done with
                self.acknowledge(tp, ids)

    def acknowledge(self, tp: TP, ids: Iterable[bytes]) -> None:
        """Acknowledge `ids` of one partition soon."""
        self._settled.setdefault(tp, []).extend(ids)
        self._flushed.clear()
        self._wake.set()

    def watch(self, stream: Stream) -> None:
        """Nothing to do as a term begins."""

    def forget(self, stream: Stream) -> None:
        """Drop what is not sent yet of `stream`: it is no longer this worker's."""
        self._settled.pop(stream.tp, None)
        if not self._settled:
            self._flushed.set()

    async def run(self) -> None:
        """Acknowledge and trim until cancelled; Redis away is waited out."""
        while True:
            await self._wait_for_work()
            # At once after a pause; in a flow more seldom than it is read.
            await asyncio.sleep(self._sent_at + self._options.ack_gather_ms / 1000 - monotonic())
            self._sent_at = monotonic()
            try:
                await self._send()
                if monotonic() - self._trimmed_at >= self._options.trim_interval_s:
                    await self._trim()
                self.trouble.end()
            except TransportError as exc:
                self.trouble.fail(exc)
                log.warning("not acknowledged yet", action="ack_retry", error=str(exc))
                await asyncio.sleep(self._options.backoff_max_s / 4)

    async def _wait_for_work(self) -> None:
        if self._settled:
            return
        self._wake.clear()
        if not self._untrimmed:
            await self._wake.wait()
            return
        due_s = self._trimmed_at + self._options.trim_interval_s - monotonic()
        try:
            async with asyncio.timeout(max(due_s, 0)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _send(self) -> None:
        batch, self._settled = self._settled, {}
        if not batch:
            return
        pipeline = self._client.pipeline(transaction=False)
        bundles = {tp: ids for tp, ids in batch.items() if self._has_bundles(tp)}
        try:
            for topic in {tp.topic for tp in bundles}:
                await self._send_bundles(
                    topic, {tp: ids for tp, ids in bundles.items() if tp.topic == topic}
                )
            for tp, ids in batch.items():
                if tp in bundles:
                    continue
                for start in range(0, len(ids), _IDS_PER_COMMAND):
                    await self._add(pipeline, tp, ids[start : start + _IDS_PER_COMMAND])
            if pipeline.command_stack:
                with broker_errors("XACK"):
                    await pipeline.execute()
        except BaseException:
            for tp, ids in batch.items():
                self._settled[tp] = ids + self._settled.get(tp, [])
            raise
        for tp, ids in batch.items():
            self._ledger.acknowledged(tp, ids)
            self.total += len(ids)
            if self._layout.stream(tp).is_ours:
                self._untrimmed.add(tp)
        if not self._settled:
            self._flushed.set()

    def _has_bundles(self, tp: TP) -> bool:
        return self._layout.stream(tp).config.is_bundled

    async def _send_bundles(self, topic: str, batch: dict[TP, list[bytes]]) -> None:
        arguments: list[bytes | str | int] = [self._group]
        for tp, ids in batch.items():
            arguments += (tp.partition, len(ids))
            for stream_id in ids:
                arguments += (stream_id, self._ledger.size(tp, stream_id))
        keys = [self._layout.counts_key(topic)]
        for tp in batch:
            keys += (self._layout.stream(tp).key, self._layout.parts_key(tp))
        # What is noted of an entry goes with it: nothing is to be noted of it behind that.
        async with self._parts.lock:
            with broker_errors("XACK"):
                await self._acknowledge_bundles(keys, arguments)

    async def _add(self, pipeline: Pipeline, tp: TP, ids: list[bytes]) -> None:
        stream = self._layout.stream(tp)
        so_far = self._positions.read_so_far(stream)
        if so_far is None:
            pipeline.xack(stream.key, self._group, *ids)
            return
        # Not in the pipeline: redis-py would ask for the script each time before it sends that.
        with broker_errors("position_ack"):
            await self._acknowledge_counted(
                keys=[stream.key, self._positions.key(stream)],
                args=[self._group, so_far.epoch, so_far.id, so_far.ordinal, *ids],
            )

    async def flush(self) -> None:
        """Wait until everything settled so far is acknowledged."""
        await self._flushed.wait()

    async def _trim(self) -> None:
        """XTRIM each of our streams up to its oldest entry that is pending or unread."""
        self._trimmed_at = monotonic()
        due = frozenset(self._untrimmed)
        streams = [self._layout.stream(tp) for tp in due]
        if not streams:
            return
        asked = self._client.pipeline(transaction=False)
        for stream in streams:
            asked.xpending(stream.key, self._group)
            asked.xinfo_groups(stream.key)
        with broker_errors("XPENDING"):
            answers = await asked.execute(raise_on_error=False)
        trims = self._client.pipeline(transaction=False)
        for stream, pending, groups in zip(streams, answers[::2], answers[1::2], strict=True):
            if isinstance(pending, Exception) or isinstance(groups, Exception):
                due -= {stream.tp}  # the group is gone; once the reader has made it anew
                continue
            trims.execute_command(
                "XTRIM", stream.key, "MINID", "=", self._trim_below(stream, pending, groups)
            )
        with broker_errors("XTRIM"):
            await trims.execute()
        for topic in {tp.topic for tp in due if self._has_bundles(tp)}:
            partitions = [tp.partition for tp in due if tp.topic == topic]
            keys = [self._layout.streams(topic)[partition].key for partition in partitions]
            with broker_errors("counts_heal"):
                await self._heal_counts([self._layout.counts_key(topic), *keys], partitions)
        self._untrimmed -= due

    def _trim_below(
        self, stream: Stream, pending: dict[str, object], groups: list[dict[str, object]]
    ) -> bytes:
        """The smallest id that some group still needs.

        A group never needs anything below its oldest pending entry or, where none is pending,
        at or below the last one it was given. Both only move up, so that the answer, being a
        moment old, is at worst too low.
        """
        floors = []
        for group in groups:
            if group["name"] == self._group.encode() and pending["min"]:
                floors.append(_parse(pending["min"]))
            elif group["pending"]:
                return b"0"  # another group's pending entries: not ours to judge
            else:
                ms, seq = _parse(group["last-delivered-id"])
                floors.append((ms, seq + 1))
        ms, seq = min(floors, default=(0, 0))
        return b"%d-%d" % (ms, seq)


def _parse(entry_id: object) -> tuple[int, int]:
    assert isinstance(entry_id, bytes)  # noqa: S101 - narrows redis-py's untyped answer
    ms, _, seq = entry_id.partition(b"-")
    return int(ms), int(seq)
