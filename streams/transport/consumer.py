"""Faust's consumer, on Redis Streams.

Faust is told once that all partitions are assigned, and its generation never changes after
that: which of them are really read is the coordinator's matter. A partition that comes or goes
therefore stops no stream of this process, and nothing that Faust has buffered for the others is
thrown away by it.

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
from faust.types.enums import ProcessingGuarantee
from faust.types.transports import TPorTopicSet
from mode import Service

from .acknowledger import Acknowledger
from .connection import connect
from .coordinator import Coordinator
from .entry import Entry
from .errors import (
    GroupLostError,
    PartitionsChangedError,
    TransportError,
    UnsupportedError,
)
from .fleet import Fleet
from .foreign import ForeignEntries
from .intake import Intake
from .layout import Stream, StreamLayout
from .ledger import Ledger
from .offsetless import OffsetlessConsumer
from .options import CONFIG_KEY, StreamConfig, TransportOptions
from .reader import Reader
from .registry import TopicRegistry
from .underway import Underway

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
        self._fleet = Fleet(
            self._client, self._layout, worker=transport.worker_name, lease_s=options.lease_s
        )
        self._acknowledger = Acknowledger(
            self._client, self._layout, self.ledger, group=self.app.conf.id, options=options
        )
        self._intake = Intake(
            self.app,
            self._layout,
            self.callback,
            settle=self._acknowledger.settle,
            on_failure=self._on_delivery_failure,
        )
        self._reader = Reader(
            self._client,
            self._layout,
            self.ledger,
            group=self.app.conf.id,
            options=options,
            deliver=self._intake.take_in,
            lose=self._on_lost_entries,
            may_read=self._fleet.is_usable,
            register=lambda client_id: self._coordinator.register_reader(client_id),
        )
        foreign = ForeignEntries(
            self._client,
            self._reader,
            group=self.app.conf.id,
            lose=self._on_lost_entries,
            sweep_s=options.sweep_s,
        )
        self._coordinator = Coordinator(
            self._fleet,
            self._reader,
            self.ledger,
            options=options,
            listeners=(self._acknowledger, self._intake, foreign),
            check_topics=lambda topics: self._registry.record(topics),
        )
        self._registry = TopicRegistry(self._client, self._layout)
        self._subscribed: list[Stream] = []
        self._underway = Underway()
        self.app.sensors.add(self._underway)
        #: Leaving, and done with waiting for what was started.
        self._drained = False
        self._ready_to_read = asyncio.Event()
        #: Ids of entries that were trimmed while they were pending, counted.
        self.lost_total = 0

    # -- Joining

    def _check_supported(self) -> None:
        guarantee: Any = self.app.conf.processing_guarantee
        if guarantee is ProcessingGuarantee.EXACTLY_ONCE:
            raise UnsupportedError(
                "processing_guarantee=exactly_once is not supported on Redis Streams;"
                " effects that carry the entry's id are"
            )
        if self.app.conf.stream_publish_on_commit:
            raise UnsupportedError(
                "stream_publish_on_commit is not supported: there are no commits to publish on"
            )
        if tables := list(self.app.tables):
            raise UnsupportedError(f"tables with changelogs are not supported: {tables}")

    async def on_start(self) -> None:
        """Call when the consumer starts."""
        self._check_supported()
        self._subscribed = []
        self._drained = False
        await super().on_start()

    def _declare(self, topics: Iterable[str]) -> list[Stream]:
        names = sorted(topics)
        for topic in self.app.topics:
            for name in topic.topics:
                if not self._layout.is_declared(name):
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
        assignment has to come from a task of its own. It calls again when an app has come to
        read more topics while it runs.
        """
        streams = self._declare(topics)
        if not self._subscribed:
            self._subscribed = streams
            self.add_future(self._join(streams))
        else:
            self.add_future(self._join_more(streams))

    async def _join(self, streams: list[Stream]) -> None:
        try:
            await self._retry(lambda: self._prepare(streams))
        except PartitionsChangedError as exc:
            await self.crash(exc)
            return
        if self.should_stop:
            return
        # Faust is told of all partitions, once: which of them are read is the coordinator's matter.
        assigned = {stream.tp for stream in streams}
        self.app.consumer_generation_id += 1
        self.app.on_rebalance_start()
        await self.on_partitions_revoked(set())
        await self.on_partitions_assigned(assigned, self.app.consumer_generation_id)

    async def _join_more(self, streams: list[Stream]) -> None:
        """Read those of `streams` as well that were not subscribed to yet.

        Nothing of Faust's rebalancing here: it would throw away what its streams have buffered,
        which would then stay in hand and never be delivered again.
        """
        added = [stream for stream in streams if stream not in self._subscribed]
        try:
            await self._retry(lambda: self._prepare(added))
        except PartitionsChangedError as exc:
            await self.crash(exc)
            return
        self._subscribed = self._subscribed + added
        await self.app.topics.on_partitions_assigned({stream.tp for stream in self._subscribed})
        self._coordinator.would_read(added)

    async def _prepare(self, streams: list[Stream], *, start_id: str | None = None) -> None:
        await self._registry.record(
            stream.tp.topic for stream in streams if not stream.tp.partition
        )
        await self._reader.ensure_groups(streams, start_id=start_id)

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
        self._coordinator.would_read(self._subscribed)
        self._ready_to_read.set()
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._retry(self._read)
        finally:
            self._intake.stop()

    @Service.task
    async def _coordinate(self) -> None:
        """Take part in the fleet, also while a leaving worker finishes what it has started."""
        await self._ready_to_read.wait()
        await self._coordinator.run()

    async def _read(self) -> None:
        try:
            await self._reader.read()
        except GroupLostError as exc:
            # From the start of what is left: what was done before finds its effects in place.
            log.error("consumer group lost, making it anew", action="group_lost", error=str(exc))
            await self._prepare(self._coordinator.held(), start_id="0")
            self._reader.read_pending_again()
        except TransportError:
            self._reader.read_pending_again()
            raise

    def _on_delivery_failure(self, exc: BaseException) -> None:
        self.add_future(self.crash(exc))

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
        the agent, as it does while Faust's flow is suspended; such a message stays pending. One
        that could not be decoded never was shown either: Faust throws the error at the agent.
        """
        skipped = not message.tracked and not self.app.flow_control.is_active()
        return not skipped and super().ack(message)

    @Service.task
    async def _collect_acknowledged(self) -> None:
        while True:
            # Both of Faust's iterators notify this future at each acknowledgement.
            self._waiting_for_ack = asyncio.get_running_loop().create_future()
            self._settle_acknowledged()
            await self._waiting_for_ack
            self._underway.check_again()

    def _settle_acknowledged(self) -> None:
        if self._drained:
            # Faust now cancels agents that did not finish, and acknowledges in their name.
            return
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
        """Wait for what was started, at most `drain_timeout_s`; the rest stays pending.

        A leaving app calls twice, before and after its agents are cancelled.
        """
        if self._drained:
            return
        try:
            async with asyncio.timeout(self._options.drain_timeout_s):
                await self._coordinator.finish_all()
                await self._underway.wait_finished()
                self._settle_acknowledged()
                await self._acknowledger.flush()
        except TimeoutError:
            log.warning(
                "not finished in time; it stays pending",
                action="drain_timeout",
                entries=self.ledger.total_unsettled(),
                timeout_s=self._options.drain_timeout_s,
            )
        self._drained = self.app.should_stop or self.should_stop

    async def on_stop(self) -> None:
        """Call when the consumer stops: finish, give the lease back, hang up."""
        await self.wait_empty()
        try:
            await self._coordinator.leave()
            if (replies := self.app.conf.reply_to) in self._layout:
                await self._registry.forget(replies)  # to this process, and to no other
        except TransportError as exc:
            # The others notice when this worker's count stands still.
            log.warning("fleet not left", action="fleet_not_left", error=str(exc))
        await self._reader.close()

    async def on_shutdown(self) -> None:
        """Call when the consumer and its tasks have stopped."""
        await self._client.aclose()

    # -- What others ask

    @property
    def is_member(self) -> bool:
        """Whether this worker is a working member of the fleet: its last beat is fresh."""
        return self._fleet.is_usable()

    # -- What Faust asks about positions

    def assignment(self) -> set[TP]:
        """The partitions that this worker reads at this moment."""
        return {stream.tp for stream in self._coordinator.held()}

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
