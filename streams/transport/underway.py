"""What Faust's streams have begun and not finished, so that a leaving worker can wait for it.

Faust counts the streams that a message was meant for. As it leaves, it throws away what no
stream has begun, and those never count down: a message that one of two agents has finished
would be waited for in vain.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

import faust
from faust.types import TP, EventT, Message, StreamT

__all__ = ["Underway"]


class Underway(faust.Sensor):
    """Told by Faust of each event that a stream takes up, and of each it is done with."""

    def __init__(self) -> None:
        super().__init__()
        #: Weak, for streams that leave it to the agent to acknowledge: they tell no end.
        self._begun: WeakKeyDictionary[Message, set[StreamT[Any]]] = WeakKeyDictionary()
        self._finished = asyncio.Event()

    def on_stream_event_in(
        self, tp: TP, offset: int, stream: StreamT[Any], event: EventT[Any]
    ) -> None:
        """Call when `stream` takes up `event`."""
        if event.message.tracked:  # its topic is one that Faust acknowledges
            self._begun.setdefault(event.message, set()).add(stream)

    def on_stream_event_out(
        self,
        tp: TP,
        offset: int,
        stream: StreamT[Any],
        event: EventT[Any],
        state: dict[Any, Any] | None = None,
    ) -> None:
        """Call when `stream` has acknowledged `event`."""
        streams = self._begun.get(event.message)
        if streams is None:
            return
        streams.discard(stream)
        if not streams:
            del self._begun[event.message]
            self._finished.set()

    async def wait_finished(self) -> None:
        """Wait until no stream is in the middle of an event."""
        while any(not message.acked for message in self._begun):
            self._finished.clear()
            await self._finished.wait()

    def check_again(self) -> None:
        """Have `wait_finished` look again: a message was acknowledged by its agent."""
        self._finished.set()
