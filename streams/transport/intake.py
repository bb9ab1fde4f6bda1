"""From entries to Faust's messages, and from Faust's acknowledgements back to entries."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from faust.types import TP, AppT
from faust.types.tuples import ConsumerMessage, Message

from .entry import Entry
from .layout import Stream, StreamLayout
from .options import Settle

__all__ = ["Intake"]

#: Entries that are put together into one message, at most.
_MERGED_MAX = 1_000

Callback = Callable[[Message], Awaitable[None]]
HandOn = Callable[[list[Entry]], Awaitable[None]]


class Intake:
    """Makes messages of entries and gives them to Faust's conductor, topic by topic.

    Arguments:
        app: whose generation id the messages carry; streams drop those of another one.
        callback: Faust's conductor.
        settle: is given the entries that are done with on delivery.
        on_failure: is told what ended the delivery of a topic; nothing is expected to.
    """

    def __init__(
        self,
        app: AppT,
        layout: StreamLayout,
        callback: Callback,
        *,
        settle: Callable[[Iterable[Entry]], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._layout = layout
        self._callback = callback
        self._settle = settle
        self._on_failure = on_failure
        self._feeders: dict[str, _Feeder] = {}
        #: Messages so far, by partition: what Faust takes for offsets.
        self.delivered: dict[TP, int] = {}
        #: What waits for Faust's own acknowledgement, by partition and offset.
        self._unacknowledged: dict[TP, dict[int, list[Entry]]] = {}

    def watch(self, stream: Stream) -> None:
        """Nothing to do as a term begins."""

    def forget(self, stream: Stream) -> None:
        """Drop what was taken in of `stream` and not handed on: its term is over."""
        self._unacknowledged.pop(stream.tp, None)
        if feeder := self._feeders.get(stream.tp.topic):
            feeder.forget(stream.tp)

    def stop(self) -> None:
        """Hand nothing on any more."""
        for feeder in self._feeders.values():
            feeder.stop()
        self._feeders.clear()

    async def take_in(self, tp: TP, entries: list[Entry]) -> None:
        """Hand `entries` of one partition on: each as a message, or in one with others."""
        config = self._layout.stream(tp).config
        feeder = self._feeders.get(tp.topic)
        if feeder is None:
            feeder = self._feeders[tp.topic] = _Feeder(
                tp.topic,
                self._hand_on,
                self._on_failure,
                # What Faust acknowledges it does by the message, which is of one partition.
                mixes=config.settle is Settle.EXPLICIT,
            )
        if config.batch:
            feeder.put(tp, entries)
        else:
            for entry in entries:
                feeder.put(tp, [entry], merge=False)

    async def _hand_on(self, entries: list[Entry]) -> None:
        tp = entries[-1].tp  # for Faust; what is settled explicitly goes by the entries' own
        config = self._layout.stream(tp).config
        value = entries if config.batch else entries[0].value
        message = self._message(tp, entries[-1], value, entries)
        await self._callback(message)
        if config.settle is Settle.FAUST and not self._app.topics.acks_enabled_for(message.topic):
            # Faust never acknowledges what such a topic delivers, so delivery is the end: not
            # sooner, or nothing would bound what waits here for an agent with a full buffer.
            self._settle(entries)

    def _message(self, tp: TP, last: Entry, value: Any, entries: list[Entry]) -> ConsumerMessage:
        config = self._layout.stream(tp).config
        offset = self.delivered[tp] = self.delivered.get(tp, 0) + 1
        if config.settle is Settle.FAUST:
            self._unacknowledged.setdefault(tp, {})[offset] = entries
        # A header names the topic that a reply is sent to: only our own streams have any.
        ours = config.external_key is None and not config.batch
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            offset,
            last.timestamp_s,
            1,
            last.headers() if ours else {},
            last.key if ours else None,
            value,
            None,
            tp=tp,
            generation_id=self._app.consumer_generation_id,
        )

    def acknowledged(self, tp: TP, offsets: Iterable[int]) -> list[Entry]:
        """Return the entries of the messages that Faust has acknowledged."""
        waiting = self._unacknowledged.get(tp, {})
        return [entry for offset in offsets for entry in waiting.pop(offset, ())]


class _Feeder:
    """Hands one topic's messages to Faust's conductor, in order.

    That waits while an agent's buffer is full. With a queue and a task per topic, an agent that
    is full holds up its own topic and no other. The queues need no bound of their own: the
    ledger bounds what is read. What waits for an agent that is given lists is put together, so
    that it catches up: a message costs Faust as much as what is done for some ten entries.

    Arguments:
        mixes: entries of several partitions may be in one list.
    """

    def __init__(
        self,
        topic: str,
        hand_on: HandOn,
        on_failure: Callable[[BaseException], None],
        *,
        mixes: bool,
    ) -> None:
        self._hand_on = hand_on
        self._on_failure = on_failure
        self._mixes = mixes
        self._waiting: deque[list[Entry]] = deque()
        #: Of what waits, the list that more may be added to, by partition if they are not mixed.
        self._growing: dict[TP | None, list[Entry]] = {}
        self._some = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"feeder-{topic}")
        self._task.add_done_callback(self._ended)

    def put(self, tp: TP, entries: list[Entry], *, merge: bool = True) -> None:
        which = None if self._mixes else tp
        growing = self._growing.get(which)
        if growing is not None and len(growing) + len(entries) <= _MERGED_MAX:
            growing += entries
            return
        self._waiting.append(entries)
        if merge:
            self._growing[which] = entries
        self._some.set()

    async def _run(self) -> None:
        while True:
            while self._waiting:
                entries = self._waiting.popleft()
                which = None if self._mixes else entries[0].tp
                if self._growing.get(which) is entries:
                    del self._growing[which]
                await self._hand_on(entries)
            self._some.clear()
            await self._some.wait()

    def forget(self, tp: TP) -> None:
        self._growing.clear()
        left = ([entry for entry in entries if entry.tp != tp] for entries in self._waiting)
        self._waiting = deque(entries for entries in left if entries)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_failure(exc)

    def stop(self) -> None:
        self._task.cancel()
        self._waiting.clear()
        self._growing.clear()
