"""Each loss is said in the log at once, and written into the journal for as long as it takes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import structlog

from .loss import Journal, Loss, LossKind

__all__ = ["LossRecorder"]

log = structlog.get_logger(__name__)


class _Line(NamedTuple):
    """What the log line of a loss is found by, and what it says."""

    action: str
    text: str


_LINES = {
    LossKind.TRIMMED_UNREAD: _Line(
        action="entries_lost", text="entries were removed before they were read"
    ),
    LossKind.TRIMMED_PENDING: _Line(
        action="entries_lost", text="entries were removed while they were pending"
    ),
    LossKind.STREAM_RECREATED: _Line(
        action="stream_recreated", text="the stream was gone, with what was in it"
    ),
    LossKind.GROUP_LOST: _Line(
        action="group_lost", text="the consumer group was gone; reading all there is again"
    ),
    LossKind.IDS_BACKWARDS: _Line(
        action="ids_backwards",
        text="the stream went back in time; new entries with ids it had before are taken for old",
    ),
}


class LossRecorder:
    """Tells the journal of losses, one after the other, while reading goes on.

    Arguments:
        journal: None: losses are only said in the log.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._waiting: deque[tuple[Loss, Callable[[], None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        #: Entries known to be lost, reported by this worker.
        self.total = 0

    def report(self, loss: Loss, *, then: Callable[[], None] = lambda: None) -> None:
        """Note `loss`; `then` is called when it is durable."""
        self.total += loss.entries or 0
        line = _LINES[loss.kind]
        log.error(
            line.text,
            action=line.action,
            kind=loss.kind.value,
            stream=loss.stream,
            count=loss.entries,
            after=loss.after_id,
            before=loss.before_id,
            **({"first": loss.ids[0], "last": loss.ids[-1]} if loss.ids else {}),
        )
        self._waiting.append((loss, then))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="loss-recorder")

    async def _run(self) -> None:
        try:
            while self._waiting:
                loss, then = self._waiting[0]
                if self._journal is not None:
                    await self._journal.record(loss)
                self._waiting.popleft()
                then()
        finally:
            self._task = None

    async def flush(self) -> None:
        """Wait until all that was reported is durable."""
        if self._task is not None:
            await asyncio.shield(self._task)

    def close(self) -> None:
        """Wait no more: what is not durable yet is found again by whoever takes over."""
        if self._task is not None:
            self._task.cancel()
