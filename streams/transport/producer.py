"""Sending: XADD, many at a time.

Who has many messages sends them in one script (``append.lua``), which costs both sides less than
a command each. Faust's own come one by one: what is sent while one pipeline is on its way goes
into the next, so pipelines grow with the load.

An XADD is never repeated here: after a lost answer the entry may be in the stream or not, and
only the caller knows whether twice is harmless.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from time import time
from typing import Any

import redis.asyncio
import structlog
from faust.transport.producer import Producer as FaustProducer
from faust.types import TP, HeadersArg
from faust.types.tuples import RecordMetadata
from mode import Seconds
from redis.commands.core import AsyncScript

from .bundles import added_field, bundles
from .connection import connect
from .entry import encode_fields
from .errors import NotOwnedError, TransportError, UnsupportedError, broker_errors, translate
from .fleet import Holding
from .layout import StreamLayout, partition_of
from .lua import script
from .options import CONFIG_KEY, StreamConfig, TransportOptions
from .portions import Record, portions
from .registry import TopicRegistry

__all__ = ["Producer", "Record"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    tp: TP
    #: The XADD.
    command: tuple[bytes | str, ...]
    sent: asyncio.Future[RecordMetadata]


class Producer(FaustProducer):
    """Faust's producer, on Redis Streams."""

    def __init__(self, transport: Any, loop: Any = None, **kwargs: Any) -> None:
        super().__init__(transport, loop=loop, **kwargs)
        self._url = transport.server_url
        self._layout: StreamLayout = transport.layout
        self._options: TransportOptions = transport.options
        self._client: redis.asyncio.Redis | None = None
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None
        self._turn = count()

    @property
    def _registry(self) -> TopicRegistry:
        prefix = self.app.conf.reply_to_prefix
        return TopicRegistry(self.client, self._layout, reply_prefix=prefix)

    @property
    def client(self) -> redis.asyncio.Redis:
        """The connection pool, made at the first use."""
        if self._client is None:
            self._client = connect(
                self._url,
                timeout_s=self._options.timeout_s,
                name=f"{self.app.conf.id}-producer",
            )
        return self._client

    async def on_start(self) -> None:
        """Call when the producer starts: Faust's buffer for `send_soon` starts with it."""
        await super().on_start()

    async def on_stop(self) -> None:
        """Call when the producer stops: what is on its way arrives first."""
        await self.flush()
        if self._client is not None:
            await self._client.aclose()
            self._client = None
            self.__dict__.pop("_append", None)
            self.__dict__.pop("_append_bundles", None)

    async def send_many(self, topics: Sequence[str], records: Sequence[Record]) -> None:
        """Send `records` to each of `topics`, all of which have the same number of partitions.

        Raises:
            TransportError: some of them may be in the streams, and some not.
            ValueError: the topics differ.
        """
        await self._send(topics, records, None)

    async def send_while(self, holding: Holding, topic: str, records: Sequence[Record]) -> None:
        """Send `records`, but nothing in the name of a worker that reads the partition no more.

        A worker that was frozen in the middle of its work would otherwise send it late, behind
        what its successor has sent since.

        Raises:
            NotOwnedError: another worker reads it; some of them may have been sent before.
            TransportError: some of them may be in the stream, and some not.
        """
        if not await self._send([topic], records, holding):
            raise NotOwnedError(f"{holding.partition.decode()} is another worker's")

    async def _send(
        self, topics: Sequence[str], records: Sequence[Record], holding: Holding | None
    ) -> bool:
        for topic in topics:
            await self._registry.look_up(topic)
        streams = [self._layout.streams(topic) for topic in topics]
        if len({(len(of_topic), of_topic[0].config.bundle_max) for of_topic in streams}) != 1:
            raise ValueError(f"not of the same partitions and bundles: {', '.join(topics)}")
        config = streams[0][0].config
        if holding is None:
            owner, fence = streams[0][0].key, (b"", b"")
        else:
            owner, fence = holding.owners_key, (holding.partition, holding.token)
        partition = self._partitioner(topics[0])
        if config.is_bundled:
            counts = [self._layout.counts_key(topic) for topic in topics]
            for call in bundles(records, partition=partition, bundle_max=config.bundle_max):
                keys = [of_topic[number].key for of_topic in streams for number in call.partitions]
                arguments = [*fence, len(topics), *call.arguments]
                with broker_errors("append_bundles"):
                    if not await self._append_bundles([owner, *counts, *keys], arguments):
                        return False
            return True
        keys = [stream.key for of_topic in streams for stream in of_topic]
        for portion in portions(records, partition=partition):
            arguments = [*fence, len(topics), *portion.arguments()]
            with broker_errors("append"):
                if not await self._append([owner, *keys], arguments):
                    return False
        return True

    @cached_property
    def _append(self) -> AsyncScript:
        return self.client.register_script(script("append"))

    @cached_property
    def _append_bundles(self) -> AsyncScript:
        return self.client.register_script(script("append_bundles"))

    def _xadd(self, tp: TP, record: Record) -> tuple[bytes | str, ...]:
        fields = encode_fields(record.key, record.value, record.headers)
        return ("XADD", self._layout.stream(tp).key, "*", *fields)

    def _place(self, topic: str, record: Record) -> TP:
        return TP(topic, self._partitioner(topic)(record))

    def _partitioner(self, topic: str) -> Callable[[Record], int]:
        """Return what says which partition of `topic` a record goes to."""
        partitions = self._layout.partitions(topic)

        def partition(record: Record) -> int:
            if record.partition is not None:
                if not 0 <= record.partition < partitions:
                    raise ValueError(f"topic {topic} has no partition {record.partition}")
                return record.partition
            if record.key is not None:
                return partition_of(record.key, partitions)
            return next(self._turn) % partitions

        return partition

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Send one message soon; the returned future has its place, or the error."""
        if transactional_id is not None:
            raise UnsupportedError("transactions are not supported")
        sent: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        record = Record(value, key, headers, partition)
        try:
            await self._registry.look_up(topic)
            tp = self._place(topic, record)
            command = self._xadd(tp, record)
        except (TransportError, ValueError, TypeError) as exc:
            # Not raised: it would end the task that sends what others have put into Faust's
            # buffer (`send_soon`), and the app with it.
            sent.set_exception(exc)
            return sent
        self._waiting.append(_Waiting(tp, command, sent))
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_waiting())
        return sent

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        """Send one message and wait until it is in the stream."""
        return await (
            await self.send(
                topic, key, value, partition, timestamp, headers, transactional_id=transactional_id
            )
        )

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                pipeline = self.client.pipeline(transaction=False)
                for waiting in batch:
                    pipeline.execute_command(*waiting.command)
                for tp, sent in Counter(waiting.tp for waiting in batch).items():
                    if self._layout.stream(tp).config.is_bundled:
                        counts = self._layout.counts_key(tp.topic)
                        pipeline.hincrby(counts, added_field(tp.partition), sent)
                try:
                    with broker_errors("XADD"):
                        answers = await pipeline.execute(raise_on_error=False)
                except TransportError as exc:
                    answers = [exc] * len(batch)
                for waiting, answer in zip(batch, answers, strict=False):
                    _resolve(waiting, answer)
                await self._let_replies_expire(batch)
        finally:
            self._sending = None

    async def _let_replies_expire(self, batch: list[_Waiting]) -> None:
        """Give an end to streams of replies whose reader may have died meanwhile."""
        prefix = self.app.conf.reply_to_prefix
        replies = {waiting.tp for waiting in batch if waiting.tp.topic.startswith(prefix)}
        if not replies:
            return
        pipeline = self.client.pipeline(transaction=False)
        for tp in replies:
            pipeline.expire(self._layout.stream(tp).key, int(self.app.conf.reply_expires))
        try:
            with broker_errors("EXPIRE"):
                await pipeline.execute()
        except TransportError as exc:
            log.warning("replies do not expire", action="expire_failed", error=str(exc))

    async def flush(self) -> None:
        """Wait until all that was sent is in its stream, or has failed."""
        await self.buffer.flush()
        while self._sending is not None:
            await asyncio.wait([self._sending])

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: Seconds = 1000.0,
        retention: Seconds | None = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = False,
    ) -> None:
        """Declare `topic`; its streams come into being with their first entry or reader."""
        if compacting:
            raise UnsupportedError(f"topic {topic}: compacted topics are not supported")
        self._layout.declare(topic, partitions, (config or {}).get(CONFIG_KEY, StreamConfig()))

    def key_partition(self, topic: str, key: bytes) -> TP:
        """The partition that `key` belongs to."""
        return TP(topic, partition_of(key, self._layout.partitions(topic)))

    def supports_headers(self) -> bool:
        """Headers travel as fields of the entry."""
        return True


def _resolve(waiting: _Waiting, answer: Any) -> None:
    if waiting.sent.done():  # whoever waited has gone
        return
    if isinstance(answer, Exception):
        error = answer if isinstance(answer, TransportError) else translate(answer, "XADD")
        waiting.sent.set_exception(error)
        return
    ms, _, seq = answer.partition(b"-")
    waiting.sent.set_result(
        RecordMetadata(
            topic=waiting.tp.topic,
            partition=waiting.tp.partition,
            topic_partition=waiting.tp,
            # Kafka's offsets are numbers: the two halves of an id in one, in the same order.
            offset=(int(ms) << 20) | int(seq),
            timestamp=time(),
            timestamp_type=1,
        )
    )
