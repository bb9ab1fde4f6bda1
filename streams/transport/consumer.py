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
import secrets
from collections.abc import Iterable
from typing import Any

import redis.asyncio
import structlog
from faust.types import TP, Message
from faust.types.transports import TPorTopicSet
from mode import Service

from .acknowledger import Acknowledger
from .connection import connect
from .coordinator import Coordinator, partition_name
from .entry import Entry
from .errors import (
    GroupLostError,
    PartitionsChangedError,
    TransportError,
)
from .fleet import Fleet, Holding
from .foreign import ForeignEntries
from .groups import Groups
from .intake import Intake
from .joining import Joining, check_supported
from .layout import Stream, StreamLayout
from .ledger import Ledger
from .loss import Loss, LossKind, id_after, id_before, id_order
from .offsetless import OffsetlessConsumer
from .options import TransportOptions
from .parts import Parts
from .positions import Positions
from .reader import Reader
from .recorder import LossRecorder
from .registry import TopicRegistry
from .trouble import Trouble
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
        group = self.app.conf.id
        self._recorder = LossRecorder(options.journal)
        self._positions = Positions(
            self._client,
            self._layout,
            self._recorder,
            group=group,
            check_interval_s=options.check_interval_s,
            journal=options.journal,
        )
        groups = Groups(
            self._client, self._positions, self._recorder, group=group, journal=options.journal
        )
        self._parts = Parts(
            self._client,
            self._layout,
            self.ledger,
            holding=lambda stream: self._fleet.holding(partition_name(stream)),
        )
        self._acknowledger = Acknowledger(
            self._client,
            self._layout,
            self.ledger,
            group=group,
            options=options,
            positions=self._positions,
            parts=self._parts,
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
            group=group,
            options=options,
            deliver=self._intake.take_in,
            lose=self._on_lost_entries,
            positions=self._positions,
            parts=self._parts,
            may_read=self._fleet.is_usable,
            register=lambda client_id: self._coordinator.register_reader(client_id),
        )
        foreign = ForeignEntries(
            self._client,
            self._reader,
            group=group,
            lose=self._on_lost_entries,
            sweep_s=options.sweep_s,
        )
        self._coordinator = Coordinator(
            self._fleet,
            self._reader,
            self.ledger,
            options=options,
            listeners=(self._acknowledger, self._intake, self._positions, self._parts, foreign),
            note_parts=self._parts.note,
            check_topics=lambda topics: self._registry.record(topics),
            make_groups=groups.ensure_again,
        )
        self._registry = TopicRegistry(self._client, self._layout)
        self._joining = Joining(
            self.app,
            self._layout,
            self._registry,
            groups,
            options=options,
            is_over=lambda: self.should_stop,
        )
        self._subscribed: list[Stream] = []
        self._underway = Underway()
        self.app.sensors.add(self._underway)
        #: Leaving, and done with waiting for what was started.
        self._drained = False
        self._ready_to_read = asyncio.Event()

    # -- Joining

    async def on_start(self) -> None:
        """Call when the consumer starts."""
        check_supported(self.app)
        self._subscribed = []
        self._drained = False
        await super().on_start()

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Declare `topic`, as the producer does."""
        await self.app.producer.create_topic(topic, *args, **kwargs)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Read `topics` from now on.

        Faust's conductor awaits this before it is ready for an assignment, so that the
        assignment has to come from a task of its own. It calls again when an app has come to
        read more topics while it runs.
        """
        streams = self._joining.declare(topics)
        if not self._subscribed:
            self._subscribed = streams
            self.add_future(self._join(streams))
        else:
            self.add_future(self._join_more(streams))

    async def _join(self, streams: list[Stream]) -> None:
        try:
            await self._joining.until_answered(lambda: self._joining.prepare(streams))
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
            await self._joining.until_answered(lambda: self._joining.prepare(added))
        except PartitionsChangedError as exc:
            await self.crash(exc)
            return
        self._subscribed = self._subscribed + added
        await self.app.topics.on_partitions_assigned({stream.tp for stream in self._subscribed})
        self._coordinator.would_read(added)

    # -- Reading

    async def _drain_messages(self, fetcher: Any) -> None:
        """Read and hand on until the worker stops; Faust's fetcher runs this."""
        self._coordinator.would_read(self._subscribed)
        self._ready_to_read.set()
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._joining.until_answered(self._read)
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
            self._joining.trouble.fail(exc)
            await self._joining.prepare_again(self._coordinator.held())
            self._reader.read_pending_again()
        except TransportError:
            self._reader.read_pending_again()
            raise

    def _on_delivery_failure(self, exc: BaseException) -> None:
        self.add_future(self.crash(exc))

    def _on_lost_entries(self, tp: TP, ids: list[bytes]) -> None:
        """Record what was trimmed while it was pending, and only then be done with it."""
        if lost := self.ledger.lose(tp, ids):
            names = tuple(entry_id.decode() for entry_id in lost)
            loss = Loss(
                kind=LossKind.TRIMMED_PENDING,
                stream=self._layout.stream(tp).key.decode(),
                after_id=id_before(min(names, key=id_order)),
                before_id=id_after(max(names, key=id_order)),
                entries=len(names),
                ids=names,
                account=secrets.token_hex(8),
            )
            self._recorder.report(loss, then=lambda: self._acknowledger.acknowledge(tp, lost))

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

    @Service.task
    async def _note_parts(self) -> None:
        await self._parts.run(self._coordinator.held)

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
                await self._recorder.flush()
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
        self._recorder.close()

    async def on_shutdown(self) -> None:
        """Call when the consumer and its tasks have stopped."""
        await self._client.aclose()

    # -- What others ask

    @property
    def lost_total(self) -> int:
        """Entries known to be lost, as far as this worker was the one to notice."""
        return self._recorder.total

    @property
    def troubles(self) -> dict[str, Trouble]:
        """What this worker cannot do just now, by activity."""
        return {
            "reading": self._joining.trouble,
            "acknowledging": self._acknowledger.trouble,
            "sharing": self._coordinator.trouble,
        }

    def holding(self, tp: TP) -> Holding:
        """What has to be so in Redis while this worker holds `tp`."""
        return self._fleet.holding(partition_name(self._layout.stream(tp)))

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
