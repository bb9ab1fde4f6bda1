"""What a worker that was frozen while its sink was retired has brought back since.

It sends to the sink, records its topic anew, and delivers, for as long as it runs with its old
settings. When it is gone, what is left of the sink is removed as `sinks retire --drop` would: what
was not delivered becomes dead letters.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection

import faust
import redis.asyncio
import structlog

from streams.retry import until_done
from streams.sinks.retired import forget_retired, read_retired
from streams.sinks.retirement import Retirement, RetirementError
from streams.transport import StreamLayout

__all__ = ["RetiredSinks"]

log = structlog.get_logger(__name__)


class RetiredSinks:
    """The chore that removes it.

    Arguments:
        connect: gives a client for the app's Redis.
        configured: the sinks that this worker has; what there is of them is wanted.
        group: the consumer group of the app.
        layout: where the app's keys are.
        silence_s: after how long without a beat a worker is dead.
    """

    name = "retired_sinks"

    def __init__(
        self,
        connect: Callable[[], redis.asyncio.Redis],
        *,
        configured: Collection[str],
        group: str,
        layout: StreamLayout,
        silence_s: float,
    ) -> None:
        self._connect = connect
        self._configured = configured
        self._group = group
        self._layout = layout
        self._silence_s = silence_s

    async def add_anew(self, _: faust.App) -> None:
        """Have what there is of this worker's sinks let be, from its start on; a Faust task."""
        async with self._connect() as client:
            await until_done(
                lambda: forget_retired(client, self._layout, self._configured), stage=self.name
            )

    async def run(self) -> AsyncGenerator[int, None]:
        """Remove what is left of each sink; gives how many keys it had."""
        async with self._connect() as client:
            for sink in await read_retired(client, self._layout):
                if sink not in self._configured:
                    yield await self._remove(client, sink)

    async def _remove(self, client: redis.asyncio.Redis, sink: str) -> int:
        retirement = Retirement(
            client, sink, group=self._group, layout=self._layout, silence_s=self._silence_s
        )
        if not (await retirement.look()).is_anything:
            return 0
        try:
            await retirement.check_nobody_has_it()
            dropped = await retirement.drop(only_if_retired=True)
            keys = await retirement.remove(only_if_retired=True)
        except RetirementError as exc:
            log.info("a retired sink is still there", action="sink_not_gone", error=str(exc))
            return 0
        log.warning(
            "something of a retired sink had come back, and is removed",
            action="retired_sink_removed",
            sink=sink,
            keys=keys,
            entries=dropped,
        )
        return keys
