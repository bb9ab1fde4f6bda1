"""A lane: the bounded way from dispatch to one verb's agent.

The reports wait in the lane itself; what travels over Faust's channel is the news that some
are there. So a batch is whatever has gathered while the agent was busy with the last one: a
single report when there is little to do, a full batch when there is much, and never a pause to
wait for more.

The bound is the transport's: what it has handed out and not seen settled
(``prefetch_entries`` a partition) is all that can wait in all lanes together. A bound of the
lane's own could make two lanes wait for each other, since each hands the next report of a
capsule to another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import faust

from agents.reconciler import Reconciler
from agents.report import Report

__all__ = ["Lane"]


class Lane:
    """Reports on their way to one verb's agent.

    Arguments:
        name: of the agent.
    """

    def __init__(self, reconciler: Reconciler, name: str) -> None:
        self.name = name
        self.channel: faust.ChannelT[Any] = reconciler.app.channel(maxsize=1)
        self._reconciler = reconciler
        self._batch_max = reconciler.settings.lane_batch_max
        self._waiting: deque[Report] = deque()
        self._announced = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def put(self, reports: Iterable[Report]) -> None:
        """Append `reports`; all that is under way of a capsule is here, and in order."""
        self._waiting.extend(reports)
        if self._waiting and not self._announced:
            self._announced = True
            await self.channel.put(True)  # type: ignore[arg-type]  # no event: it is only news

    async def work(
        self, stream: faust.StreamT[Any], handle: Callable[[list[Report]], Awaitable[None]]
    ) -> None:
        """Give `handle` batch after batch; the body of the lane's agent.

        A worker that leaves begins no further batch: what waits here stays pending in Redis.
        """
        async for _ in stream:
            self._announced = False
            while self._waiting and not self._reconciler.is_leaving:
                size = min(len(self._waiting), self._batch_max)
                await handle([self._waiting.popleft() for _ in range(size)])
                # Others were answered at this very moment, and what they let go is for here, too.
                await asyncio.sleep(0)
