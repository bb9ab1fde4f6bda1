"""One reading of Redis a second, for all who look at this worker's page, and none for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

import orjson
import structlog

from streams.figures.live import LiveTopology
from streams.transport import TransportError
from streams.web.frame import Sink, frame_of

__all__ = ["Reading", "TooManyViewersError", "Watch"]

log = structlog.get_logger(__name__)

_PERIOD_S: Final = 1.0
VIEWERS_MAX: Final = 32


class TooManyViewersError(Exception):
    """So many look at this worker's page that no other may."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was seen in Redis, or why nothing was."""

    at: float
    live: LiveTopology | None
    trouble: str = ""
    #: As it goes to each browser.
    event: bytes = b""


class Watch:
    """Reads while somebody looks.

    Arguments:
        read: reads once; may raise TransportError.
        sinks: those of the picture.
    """

    def __init__(
        self, read: Callable[[], Awaitable[LiveTopology]], sinks: Callable[[], list[Sink]]
    ) -> None:
        self._read = read
        self._sinks = sinks
        self._latest: Reading | None = None
        self._reading = asyncio.Lock()
        self._viewers = 0
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def viewers(self) -> int:
        """How many look."""
        return self._viewers

    async def latest(self) -> Reading:
        """Return what was seen less than a second ago, or look now."""
        async with self._reading:
            latest = self._latest
            if latest is None or monotonic() - latest.at >= _PERIOD_S:
                latest = self._latest = await self._look()
            return latest

    async def follow(self) -> AsyncIterator[Reading]:
        """Give a reading now, and each that comes; who is slow misses some.

        Raises:
            TooManyViewersError: nothing is given.
        """
        if self._viewers >= VIEWERS_MAX or self._is_closed:
            raise TooManyViewersError
        self._viewers += 1
        try:
            reading = await self.latest()
            if self._task is None:
                self._task = asyncio.create_task(self._keep_looking())
            while not self._is_closed:
                yield reading
                seen = reading
                async with self._news:
                    await self._news.wait_for(
                        lambda seen=seen: self._is_closed or self._latest is not seen  # type: ignore[misc]
                    )
                assert self._latest is not None  # noqa: S101 - it only ever becomes newer
                reading = self._latest
        finally:
            self._viewers -= 1
            if not self._viewers:
                self._stop()

    async def close(self) -> None:
        """End all that follow; nobody can follow any more."""
        self._is_closed = True
        self._stop()
        async with self._news:
            self._news.notify_all()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep_looking(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                began = monotonic()
                await self.latest()
                async with self._news:
                    self._news.notify_all()
                # Not a hair before the last reading is a second old, when it would be used again.
                await asyncio.sleep(max(0.1, _PERIOD_S - (monotonic() - began)) + 0.002)

    async def _look(self) -> Reading:
        began = monotonic()
        try:
            live = await self._read()
            event = _event("frame", frame_of(live, self._sinks()).as_dict())
            return Reading(began, live, event=event)
        except TransportError as exc:
            trouble = f"Redis: {exc}"
        except Exception as exc:
            # What others left in Redis must not stop the page.
            log.exception("cannot read the figures", action="page_reading_failed")
            trouble = f"the figures in Redis cannot be used: {type(exc).__name__}"
        return Reading(began, None, trouble, _event("trouble", {"text": trouble}))


def _event(name: str, document: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(document) + b"\n\n"
