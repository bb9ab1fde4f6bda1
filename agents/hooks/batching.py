"""Events handed to a sink many at once, while each delivery still waits for its own end.

A batch goes when it is full, or when the oldest event in it has waited long enough. Whatever
becomes of the batch becomes of each event in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from streams.errors import DeliveryError, DeliveryRefusedError
from streams.events import SandboxEvent

__all__ = ["Batching"]

_CLOSED = "the sink was closed"


@dataclass(eq=False)
class _Batch:
    events: list[SandboxEvent] = field(default_factory=list)
    futures: list[asyncio.Future[None]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    def end(self, failure: Exception | None) -> None:
        for future in self.futures:
            if future.done():  # its delivery was cancelled
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(_own(failure))


class Batching:
    """Collects events into batches.

    Arguments:
        send: delivers one batch; as :meth:`agents.hooks.sink.BatchSink.on_sandbox_events`.
        max_events: events in a batch at most.
        max_age_s: how long the first event of a batch waits for others.
    """

    def __init__(
        self,
        send: Callable[[Sequence[SandboxEvent]], Awaitable[None]],
        *,
        max_events: int,
        max_age_s: float,
    ) -> None:
        self._send = send
        self._max_events = max_events
        self._max_age_s = max_age_s
        self._filling: _Batch | None = None
        self._under_way: dict[asyncio.Task[None], _Batch] = {}

    async def deliver(self, event: SandboxEvent) -> None:
        """Have `event` sent with the next batch; ends as the batch does."""
        loop = asyncio.get_running_loop()
        batch = self._filling
        if batch is None:
            batch = self._filling = _Batch()
            batch.timer = loop.call_later(self._max_age_s, self._go, batch)
        future: asyncio.Future[None] = loop.create_future()
        batch.events.append(event)
        batch.futures.append(future)
        if len(batch.events) >= self._max_events:
            self._go(batch)
        await future

    async def close(self) -> None:
        """Give up what was not sent yet and what is under way: each delivery fails."""
        if self._filling is not None:
            batch, self._filling = self._filling, None
            _stop(batch)
            batch.end(DeliveryError(_CLOSED))
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _go(self, batch: _Batch) -> None:
        if self._filling is batch:
            self._filling = None
        _stop(batch)
        # Of a delivery that was cancelled meanwhile, nobody would learn the end.
        wanted = [i for i, future in enumerate(batch.futures) if not future.done()]
        batch.events = [batch.events[i] for i in wanted]
        batch.futures = [batch.futures[i] for i in wanted]
        if batch.events:
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._under_way[task] = batch
            task.add_done_callback(self._ended)

    async def _run(self, batch: _Batch) -> None:
        try:
            await self._send(batch.events)
        except Exception as exc:  # noqa: BLE001 - each delivery gets it
            batch.end(exc)
        else:
            batch.end(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        batch = self._under_way.pop(task)
        if task.cancelled():
            batch.end(DeliveryError(_CLOSED))


def _stop(batch: _Batch) -> None:
    if batch.timer is not None:
        batch.timer.cancel()


def _own(failure: Exception) -> Exception:
    """Return an exception for one delivery: raised by several tasks, one would grow a traceback."""
    if isinstance(failure, DeliveryRefusedError):
        return DeliveryRefusedError(failure.reason, retry_after_s=failure.retry_after_s)
    if isinstance(failure, DeliveryError):
        return DeliveryError(failure.reason, retry_after_s=failure.retry_after_s)
    return DeliveryError(f"{type(failure).__name__} in the sink")
