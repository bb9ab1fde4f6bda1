"""Has the journal know how far a stream is read, for the time when Redis is emptied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from faust.types import TP

from .errors import TransportError
from .layout import Stream
from .loss import Journal, Position, order_of
from .read_so_far import ReadSoFar

__all__ = ["Remembering"]

log = structlog.get_logger(__name__)

_EVERY_S: Final = 2.0
#: How soon a position is remembered that was not known yet.
_FIRST_S: Final = 0.1


class Remembering:
    """Tells the journal, and learns from it what Redis has forgotten.

    Arguments:
        of: what this process knows of a stream.
    """

    def __init__(self, journal: Journal | None, *, of: Callable[[Stream], ReadSoFar]) -> None:
        self._journal = journal
        self._of = of
        self._tasks: dict[TP, asyncio.Task[None]] = {}

    def watch(self, stream: Stream) -> None:
        """Remember `stream` from now on."""
        if self._journal is not None:
            name = f"remember-{stream.tp.topic}"
            self._tasks[stream.tp] = asyncio.create_task(
                self._run(stream, self._journal), name=name
            )

    def forget(self, stream: Stream) -> None:
        """Its term is over."""
        if task := self._tasks.pop(stream.tp, None):
            task.cancel()

    async def _run(self, stream: Stream, journal: Journal) -> None:
        told: Position | None = None
        recalled = False
        while True:
            position = self._position(stream)
            pause_s = _EVERY_S
            try:
                if not recalled:
                    self._learn(stream, await journal.recall(stream.key.decode()))
                    recalled = True
                if position is None:
                    pause_s = _FIRST_S
                elif position != told:
                    await journal.remember(position)
                    told = position
            except TransportError as exc:
                log.warning("position not remembered", action="journal_retry", error=str(exc))
            await asyncio.sleep(pause_s)

    def _learn(self, stream: Stream, remembered: Position | None) -> None:
        known = self._of(stream)
        if remembered is not None and order_of(remembered.last_id) > order_of(known.last_id):
            known.last_id = remembered.last_id
            if remembered.epoch == known.epoch:
                known.added = max(known.added, remembered.added)

    def _position(self, stream: Stream) -> Position | None:
        known = self._of(stream)
        return known.position(stream.key.decode()) if known.epoch else None
