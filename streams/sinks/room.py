"""Room in a sink's backlog for what an operator sends: the cap holds for him as for the stages.

Where the backlog is full and its policy is ``hold``, he waits, as the stages before the sink do,
and gives up when it is not getting shorter. He stops short of the cap, where the stages that it
holds up may go on: otherwise they would wait for as long as there is something of his to send.
Where the oldest deliveries give way, nobody waits.

How much waits is asked at most once a second, so what the workers send in that time may pass the
cap, as it may without him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Final

import redis.asyncio

from config.settings import SinkSettings
from streams.errors import ReconcilerError
from streams.figures.depths import read_depths
from streams.recorded_topics import HOOKS_PREFIX, recorded_partitions
from streams.transport import StreamConfig, StreamLayout

__all__ = ["ROOM_BELOW", "BacklogFullError", "BacklogRoom"]

#: A backlog that was full is so until it is down to this part, so that stages do not stop and go.
ROOM_BELOW: Final = 0.95
#: How long what was found counts, and how long to wait before a full backlog is looked at again.
_FRESH_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.25
#: How long the backlog may be full and get no shorter before the command gives up.
_STANDSTILL_S: Final = 30.0


class BacklogFullError(ReconcilerError):
    """There is no room for more, and none is coming; what was not sent can be sent later."""


class _Found:
    """What is known of one sink."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.at_s = monotonic()

    @property
    def is_fresh(self) -> bool:
        return monotonic() - self.at_s < _FRESH_S


class BacklogRoom:
    """The room for each of `sinks`.

    Arguments:
        group: the consumer group of the app.
        layout: where the app's keys are.
        standstill_s: how long the backlog may get no shorter before BacklogFullError.
        stopped: ends all waiting.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        sinks: Iterable[SinkSettings],
        *,
        group: str,
        layout: StreamLayout,
        standstill_s: float = _STANDSTILL_S,
        stopped: asyncio.Event | None = None,
    ) -> None:
        self._client = client
        self._most = {
            sink.name: sink.backlog_max for sink in sinks if sink.at_backlog_max == "hold"
        }
        self._group = group
        self._layout = layout
        self._standstill_s = standstill_s
        self._stopped = stopped or asyncio.Event()
        self._found: dict[str, _Found] = {}

    async def take(self, sink: str, wanted: int = 1) -> int:
        """Wait for room, and return how many of `wanted` may be sent now; 0: it is time to stop.

        Arguments:
            sink: whose; ``""`` is the pipeline, which has no such cap.

        Raises:
            BacklogFullError: the backlog has been full for a while, and got no shorter.
            TransportError: Redis is unreachable or refuses.
        """
        if sink not in self._most:
            return wanted
        found = self._found.get(sink)
        if found is None or found.left < 1 or not found.is_fresh:
            found = self._found[sink] = await self._wait(sink)
        taken = max(min(wanted, found.left), 0)
        found.left -= taken
        return taken

    async def check(self, sink: str, wanted: int) -> None:
        """See that there is room for all of `wanted` now.

        Raises:
            BacklogFullError: there is not.
            TransportError: Redis is unreachable or refuses.
        """
        if sink in self._most and (left := await self._left(sink)) < wanted:
            raise BacklogFullError(
                f"the backlog of {sink} is full: there is room for {max(left, 0):,} more"
            )

    async def _wait(self, sink: str) -> _Found:
        least, since_s = await self._left(sink), monotonic()
        left = least
        while left < 1 and not self._stopped.is_set():
            if monotonic() - since_s >= self._standstill_s:
                raise BacklogFullError(
                    f"the backlog of {sink} is full, and got no shorter for"
                    f" {self._standstill_s:.0f} s: does the sink take anything?"
                )
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._stopped.wait()
            except TimeoutError:
                left = await self._left(sink)
            if left > least:
                least, since_s = left, monotonic()
        return _Found(left)

    async def _left(self, sink: str) -> int:
        """Return how many more there is room for; below 0, there are too many."""
        topic = f"{HOOKS_PREFIX}{sink}"
        # Of its own: the one of the app has the partitions of the settings.
        layout = StreamLayout(self._layout.prefix)
        partitions = await recorded_partitions(self._client, layout, topic)
        layout.declare(topic, partitions, StreamConfig())
        depths = await read_depths(self._client, layout, [topic], group=self._group)
        return max(int(self._most[sink] * ROOM_BELOW), 1) - sum(depths.values())
