"""A webhook receiver that can be told to have a bad time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from aiohttp import web

from tests.reconciliation import Receiver

__all__ = ["MOODS", "Mood", "MoodySink"]

Mood = Literal["well", "503", "429", "hang"]
MOODS: tuple[Mood, ...] = get_args(Mood)[1:]

#: How long a worker waits for an answer.
TIMEOUT_S = 2.0


@dataclass
class MoodySink(Receiver):
    """Takes deliveries while it is well; what it refuses or leaves unanswered did not arrive."""

    mood: Mood = "well"
    refused: int = 0

    def settings(self) -> dict[str, str]:
        """The setting that has a worker deliver here."""
        (sink,) = json.loads(super().settings()["CAPSULES_SINKS"])
        return {"CAPSULES_SINKS": json.dumps([{**sink, "timeout_s": TIMEOUT_S}])}

    async def _take(self, request: web.Request) -> web.Response:
        if self.mood == "well":
            return await super()._take(request)
        self.refused += 1
        if self.mood == "429":
            return web.Response(status=429, headers={"retry-after": "1"})
        if self.mood == "hang":
            await asyncio.sleep(2 * TIMEOUT_S)  # whoever waits has given up
        return web.Response(status=503)

    @contextmanager
    def in_a_thread(self) -> Iterator[MoodySink]:
        """Be there until the end of the block, on a loop of its own."""
        up, over = threading.Event(), threading.Event()

        async def serve() -> None:
            async with self:
                up.set()
                await asyncio.to_thread(over.wait)

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="sink")
        thread.start()
        try:
            assert up.wait(10), "the sink does not start"
            yield self
        finally:
            over.set()
            thread.join(30)
