"""What ``run`` does while all runs: look twice a second, and have it shown."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

import redis.asyncio

from streams.child_process import ChildProcess
from streams.commands.live_view import Snapshot, View
from streams.errors import DatabaseUnavailableError
from streams.figures.status import Status
from streams.simulation.sandbox_changes import SandboxChange, SandboxChanges
from streams.transport import BrokerRefusedError, TransportError, broker_errors

__all__ = ["Watch"]

_LOOK_EVERY_S: Final = 0.5
#: Looks from one reading of all figures to the next.
_FIGURES_EVERY: Final = 2
_RATE_WINDOW_S: Final = 10.0


class Watch:
    """Looks at the worker, the publisher, the rows and the streams.

    Arguments:
        read_figures: reads all figures once.
        changes: finds what has changed in `sandboxes`.
        client: for the number of events so far.
        source: key of the producer's stream.
        worker: the worker, already started.
        worker_name: what it calls itself in the fleet.
        publisher: started here once the worker reads: before that, nobody would see its events.
    """

    def __init__(
        self,
        read_figures: Callable[[], Awaitable[Status]],
        changes: SandboxChanges,
        client: redis.asyncio.Redis,
        *,
        source: str,
        worker: ChildProcess,
        worker_name: str,
        publisher: ChildProcess | None,
    ) -> None:
        self._read_figures = read_figures
        self._changes = changes
        self._client = client
        self._source = source
        self._worker = worker
        self._worker_name = worker_name
        self._publisher = publisher
        self._was_ready = False
        self._status: Status | None = None
        self._trouble = ""
        #: When, and how many events there had been by then.
        self._counts: deque[tuple[float, int]] = deque()

    async def run(self, view: View, stopped: asyncio.Event) -> None:
        """Look and show until `stopped` is set or the worker has ended by itself."""
        looks = 0
        while not stopped.is_set():
            changes = await self._look(figures=looks % _FIGURES_EVERY == 0)
            if self._is_ready and self._publisher is not None and self._publisher.pid is None:
                await self._publisher.start()
            view.show(self._snapshot(), changes)
            if not self._worker.is_running:
                return
            looks += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _LOOK_EVERY_S)

    async def _look(self, *, figures: bool) -> list[SandboxChange]:
        """Read what there is to read; what cannot be read now is tried again next time."""
        try:
            changes = await asyncio.to_thread(self._changes.poll)
            if figures:
                await self._count_events()
                self._status = await self._read_figures()
        except (DatabaseUnavailableError, TransportError) as exc:
            self._trouble = str(exc)
            return []
        self._trouble = ""
        self._was_ready = self._was_ready or self._is_ready
        return changes

    async def _count_events(self) -> None:
        try:
            with broker_errors("XINFO STREAM"):
                info = await self._client.xinfo_stream(self._source)
        except BrokerRefusedError:
            return  # there is no stream before the worker or the first event has made it
        now = monotonic()
        self._counts.append((now, int(info["entries-added"])))
        while now - self._counts[0][0] > _RATE_WINDOW_S:
            self._counts.popleft()

    @property
    def _events_per_s(self) -> float:
        if len(self._counts) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._counts[0], self._counts[-1]
        return max(0, last - first) / (last_at - first_at)

    @property
    def _is_ready(self) -> bool:
        return self._status is not None and self._status.workers.get(self._worker_name, 0) > 0

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            worker=self._worker_state(),
            publisher=self._publisher_state(),
            status=self._status,
            events_per_s=self._events_per_s,
            trouble=self._trouble,
        )

    def _worker_state(self) -> str:
        if not self._worker.is_running:
            return _death(self._worker)
        if self._is_ready:
            return "ready"
        if self._status is not None and any(self._status.workers.values()):
            return "waiting for its share"
        return "does not read" if self._was_ready else "starting"

    def _publisher_state(self) -> str:
        if self._publisher is None:
            return "off"
        if self._publisher.pid is None:
            return "waits for the worker"
        return "publishing" if self._publisher.is_running else _death(self._publisher)


def _death(child: ChildProcess) -> str:
    last = child.last_lines(1)
    word = "died" if child.exit_code else "ended"
    return f"{word} ({child.ending})" + (f": {last[0]}" if last else "")
