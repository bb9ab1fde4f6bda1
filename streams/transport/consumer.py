"""Faust's consumer, on Redis Streams.

Faust is told once that all partitions are assigned, and its generation never changes after
that: which of them are really read is the lease's matter. A change of owner therefore stops
no stream of this process, and nothing that Faust has buffered is thrown away by it.

Two ways lead to an acknowledgement, by the topic's :class:`Settle`:

* ``FAUST``: Faust's streams acknowledge. Its Cython iterator writes into ``_acked`` without
  calling any method, so the consumer collects what stands there.
* ``EXPLICIT``: only :meth:`Consumer.settle` does. Such a topic is declared with ``acks=False``,
  since Faust's streams acknowledge a message also when the agent raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import redis.asyncio
import structlog
from faust.types import TP, Message
from faust.types.transports import TPorTopicSet
from mode import Service

from .acknowledger import Acknowledger
from .connection import connect
from .entry import Entry
from .errors import (
    GroupLostError,
    PartitionsChangedError,
    TransportError,
    UnsupportedError,
)
from .intake import Intake
from .layout import Stream, StreamLayout
from .lease import AppLease
from .ledger import Ledger
from .offsetless import OffsetlessConsumer
from .options import CONFIG_KEY, StreamConfig, TransportOptions
from .reader import Reader
from .registry import TopicRegistry

__all__ = ["Consumer"]

log = structlog.get_logger(__name__)


class Consumer(OffsetlessConsumer):
    """Reads the app's topics, bounded by what its agents have in hand."""

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, *args, **kwargs)
        self._layout: StreamLayout = transport.layout
        options: TransportOptions = transport.options
        self._options = options
        self._client: redis.asyncio.Redis = connect(
            transport.server_url, timeout_s=options.timeout_s, name=f"{self.app.conf.id}-consumer"
        )
        self.ledger = Ledger(
            capacity=options.prefetch_entries,
            read_size=options.fetch_count,
            on_room=lambda: self._reader.wake(),
        )
        self._lease = AppLease(
            self._client,
            self._layout,
            worker=transport.worker_name,
            lease_s=options.lease_s,
            on_lost=self._on_lease_lost,
        )
        self._acknowledger = Acknowledger(
            self._client, self._layout, self.ledger, group=self.app.conf.id, options=options
        )
        self._intake = Intake(
            self.app, self._layout, self.callback, settle=self._acknowledger.settle
        )
        self._reader = Reader(
            self._client,
            self._layout,
            self.ledger,
            self._lease,
            group=self.app.conf.id,
            options=options,
            deliver=self._intake.take_in,
            lose=self._on_lost_entries,
        )
        self._registry = TopicRegistry(self._client, self._layout)
        self._subscribed: list[Stream] = []
        self._faust_acknowledged = asyncio.Event()
        #: Ids of entries that were trimmed while they were pending, counted.
        self.lost_total = 0

    # -- Joining

    def _check_supported(self) -> None:
        if self.in_transaction:
            raise UnsupportedError(
                "processing_guarantee=exactly_once is not supported on Redis Streams;"
                " effects that carry the entry's id are"
            )
        if tables := list(self.app.tables):
            raise UnsupportedError(f"tables with changelogs are not supported: {tables}")

    async def on_start(self) -> None:
        """Call when the consumer starts."""
        self._check_supported()
        await super().on_start()

    def _declare(self, topics: Iterable[str]) -> list[Stream]:
        names = sorted(topics)
        for topic in self.app.topics:
            for name in topic.topics:
                if name not in self._layout:
                    config: StreamConfig = (topic.config or {}).get(CONFIG_KEY, StreamConfig())
                    partitions = topic.partitions or self.app.conf.topic_partitions
                    self._layout.declare(name, 1 if config.external_key else partitions, config)
        return self._layout.all_streams(names)

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Declare `topic`, as the producer does."""
        await self.app.producer.create_topic(topic, *args, **kwargs)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Read `topics` from now on.

        Faust's conductor awaits this before it is ready for an assignment, so that the
        assignment has to come from a task of its own.
        """
        self._subscribed = self._declare(topics)
        self.add_future(self._join(self._subscribed))

    async def _join(self, streams: list[Stream]) -> None:
        try:
            await self._retry(lambda: self._prepare(streams))
        except PartitionsChangedError as exc:
            await self.crash(exc)
            return
        assigned = {stream.tp for stream in streams}
        self.app.consumer_generation_id += 1
        self.app.on_rebalance_start()
        await self.on_partitions_revoked(set())
        await self.on_partitions_assigned(assigned, self.app.consumer_generation_id)

    async def _prepare(self, streams: list[Stream]) -> None:
        await self._registry.record(
            stream.tp.topic for stream in streams if not stream.tp.partition
        )
        await self._reader.ensure_groups(streams)

    async def _retry(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Repeat `attempt` until Redis answers it."""
        pause_s = self._options.backoff_min_s
        while not self.should_stop:
            try:
                await attempt()
                return
            except PartitionsChangedError:
                raise
            except TransportError as exc:
                log.warning(
                    "waiting for Redis",
                    action="broker_unavailable",
                    error=str(exc),
                    pause_s=pause_s,
                )
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, self._options.backoff_max_s)

    # -- Reading

    async def _drain_messages(self, fetcher: Any) -> None:
        """Read and hand on until the worker stops; Faust's fetcher runs this."""
        keeping = asyncio.create_task(self._lease.keep(), name="lease")
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._retry(self._read)
        finally:
            keeping.cancel()
            self._intake.stop()

    async def _read(self) -> None:
        try:
            if not self._lease.is_held():
                await self._lease.acquire()
                self._begin_term()
            await self._reader.read()
        except GroupLostError as exc:
            # From the start of what is left: what was done before finds its effects in place.
            log.error("consumer group lost, making it anew", action="group_lost", error=str(exc))
            await self._reader.ensure_groups(self._subscribed, start_id="0")
            self._begin_term()
        except TransportError:
            self._reader.read_pending_again()
            raise

    def _begin_term(self) -> None:
        self._acknowledger.forget()
        self._intake.begin_term()
        self._reader.assign(self._subscribed)

    def _on_lease_lost(self) -> None:
        self._acknowledger.forget()
        self.ledger.begin_epoch(())
        self._reader.wake()

    def _on_lost_entries(self, tp: TP, ids: list[bytes]) -> None:
        self.lost_total += len(ids)
        log.error(
            "entries were trimmed while they were pending",
            action="entries_lost",
            stream=self._layout.stream(tp).key.decode(),
            count=len(ids),
            first=ids[0].decode(),
            last=ids[-1].decode(),
        )
        self._acknowledger.acknowledge(tp, ids)

    # -- Acknowledging

    def settle(self, entries: Iterable[Entry]) -> None:
        """Acknowledge `entries` of topics with explicit settlement: their effects are durable."""
        self._acknowledger.settle(entries)

    def ack(self, message: Message) -> bool:
        """Note Faust's acknowledgement of `message`.

        Faust's pure Python iterator also acknowledges what it skipped without showing it to
        the agent; such a message was never tracked, and stays pending here.
        """
        return bool(message.tracked) and super().ack(message)

    @Service.task
    async def _collect_acknowledged(self) -> None:
        while True:
            # Both of Faust's iterators notify this future at each acknowledgement.
            self._waiting_for_ack = asyncio.get_running_loop().create_future()
            self._settle_acknowledged()
            await self._waiting_for_ack
            self._faust_acknowledged.set()

    def _settle_acknowledged(self) -> None:
        for tp, offsets in self._acked.items():
            if offsets:
                self.settle(self._intake.acknowledged(tp, offsets))
                offsets.clear()
                self._acked_index[tp].clear()

    @Service.task
    async def _acknowledge(self) -> None:
        await self._acknowledger.run()

    async def commit(
        self, topics: TPorTopicSet | None = None, start_new_transaction: bool = True
    ) -> bool:
        """Settle what Faust has acknowledged; there are no offsets to commit."""
        self._settle_acknowledged()
        return True

    # -- Leaving

    async def wait_empty(self) -> None:
        """Wait for what was started, at most `drain_timeout_s`; the rest stays pending."""
        try:
            async with asyncio.timeout(self._options.drain_timeout_s):
                await self.ledger.wait_idle()
                await self._wait_for_faust()
                self._settle_acknowledged()
                await self._acknowledger.flush()
        except TimeoutError:
            log.warning(
                "not finished in time; it stays pending",
                action="drain_timeout",
                entries=self.ledger.total_unsettled(),
                timeout_s=self._options.drain_timeout_s,
            )

    async def _wait_for_faust(self) -> None:
        """Wait until Faust's streams have acknowledged the messages they have started."""
        while any(not message.acked for message in self._unacked_messages):
            self._faust_acknowledged.clear()
            await self._faust_acknowledged.wait()

    async def on_stop(self) -> None:
        """Call when the consumer stops: finish, give the lease back, hang up."""
        await self.wait_empty()
        try:
            await self._lease.release()
        except TransportError as exc:
            log.warning("lease not given back", action="lease_not_released", error=str(exc))
        await self._reader.close()

    async def on_shutdown(self) -> None:
        """Call when the consumer and its tasks have stopped."""
        await self._client.aclose()

    # -- What Faust asks about positions

    def assignment(self) -> set[TP]:
        """All partitions of the app's topics (see the module's docstring)."""
        return {stream.tp for stream in self._subscribed}

    def topic_partitions(self, topic: str) -> int | None:
        """The number of partitions of `topic`."""
        return self._layout.partitions(topic) if topic in self._layout else None

    def key_partition(
        self, topic: str, key: bytes | None, partition: int | None = None
    ) -> int | None:
        """The partition that a message with `key` belongs to."""
        if partition is not None or key is None:
            return partition
        return self.app.producer.key_partition(topic, key).partition

    def highwater(self, tp: TP) -> int:
        """The offset of the last message delivered."""
        return self._intake.delivered.get(tp, 0)
