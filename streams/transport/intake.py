"""From entries to Faust's messages, and from Faust's acknowledgements back to entries."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from faust.types import TP, AppT
from faust.types.tuples import ConsumerMessage, Message

from .entry import Entry
from .layout import StreamLayout
from .options import Settle

__all__ = ["Intake"]

Callback = Callable[[Message], Awaitable[None]]


class Intake:
    """Makes messages of entries and gives them to Faust's conductor, topic by topic.

    Arguments:
        app: whose generation id the messages carry; streams drop those of another one.
        callback: Faust's conductor.
        settle: is given the entries that are done with on delivery.
    """

    def __init__(
        self,
        app: AppT,
        layout: StreamLayout,
        callback: Callback,
        *,
        settle: Callable[[Iterable[Entry]], None],
    ) -> None:
        self._app = app
        self._layout = layout
        self._callback = callback
        self._settle = settle
        self._feeders: dict[str, _Feeder] = {}
        #: Messages so far, by partition: what Faust takes for offsets.
        self.delivered: dict[TP, int] = {}
        #: What waits for Faust's own acknowledgement, by partition and offset.
        self._unacknowledged: dict[TP, dict[int, list[Entry]]] = {}

    def begin_term(self) -> None:
        """Drop what was taken in and not handed on: it belongs to an earlier term."""
        self.stop()
        self._unacknowledged.clear()

    def stop(self) -> None:
        """Hand nothing on any more."""
        for feeder in self._feeders.values():
            feeder.stop()
        self._feeders.clear()

    async def take_in(self, tp: TP, entries: list[Entry]) -> None:
        """Hand `entries` of one partition on, as one message or one each."""
        feeder = self._feeders.get(tp.topic)
        if feeder is None:
            feeder = self._feeders[tp.topic] = _Feeder(tp.topic, self._callback)
        config = self._layout.stream(tp).config
        if config.batch:
            feeder.put(self._message(tp, entries[-1], entries, entries))
        else:
            for entry in entries:
                feeder.put(self._message(tp, entry, entry.value, [entry]))
        if config.settle is Settle.FAUST and not self._app.topics.acks_enabled_for(tp.topic):
            # Faust never acknowledges what such a topic delivers, so delivery is the end.
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
    ledger bounds what is read.
    """

    def __init__(self, topic: str, callback: Callback) -> None:
        self._callback = callback
        self._messages: deque[Message] = deque()
        self._some = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"feeder-{topic}")

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self._some.set()

    async def _run(self) -> None:
        while True:
            while self._messages:
                await self._callback(self._messages.popleft())
            self._some.clear()
            await self._some.wait()

    def stop(self) -> None:
        self._task.cancel()
        self._messages.clear()
