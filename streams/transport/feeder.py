"""Between the reader and Faust's conductor: one queue per topic.

Handing a message to the conductor waits while an agent's buffer is full. With a queue and a
task per topic, an agent that is full holds up its own topic and no other. The queues need no
bound of their own: the ledger bounds what is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from faust.types.tuples import Message

__all__ = ["Feeder"]


class Feeder:
    """Hands one topic's messages to `callback`, in order.

    Arguments:
        topic: names the task.
        callback: Faust's conductor.
    """

    def __init__(self, topic: str, callback: Callable[[Message], Awaitable[None]]) -> None:
        self._callback = callback
        self._messages: deque[Message] = deque()
        self._some = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"feeder-{topic}")

    def put(self, message: Message) -> None:
        """Hand `message` on when its turn comes."""
        self._messages.append(message)
        self._some.set()

    async def _run(self) -> None:
        while True:
            while self._messages:
                await self._callback(self._messages.popleft())
            self._some.clear()
            await self._some.wait()

    def stop(self) -> None:
        """Hand nothing on any more."""
        self._task.cancel()
        self._messages.clear()
