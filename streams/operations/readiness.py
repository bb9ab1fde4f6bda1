"""A file that is fresh while this worker is ready: a probe needs no server to ask.

Ready is a worker that is a working member of the fleet, with partitions or, where there are
more workers than partitions, without, and whose statements Postgres answers. A worker that is
not ready removes the file; the file's age says it as well, so that one which a killed worker has
left behind says no before long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import faust
import structlog

__all__ = ["ReadyFile"]

log = structlog.get_logger(__name__)

_TOUCH_EVERY_S: Final = 1.0


class ReadyFile:
    """Keeps the file, from when the app has started until it begins to stop.

    Arguments:
        is_ready: asked once a second.
    """

    def __init__(self, path: Path, is_ready: Callable[[], bool]) -> None:
        self._path = path
        self._is_ready = is_ready
        self._is_writable = True

    async def keep(self, app: faust.App) -> None:
        """Touch the file while the worker is ready, else remove it; a Faust task."""
        # What a former process has left behind may still be fresh.
        self._remove()
        try:
            while not app.should_stop:
                if self._is_ready():
                    self._touch()
                else:
                    self._remove()
                await app.sleep(_TOUCH_EVERY_S)
        finally:
            self._remove()

    def _touch(self) -> None:
        try:
            self._path.touch()
        except OSError as exc:
            if self._is_writable:
                log.warning(
                    "ready file cannot be written", action="ready_file_failed", error=str(exc)
                )
            self._is_writable = False
        else:
            self._is_writable = True

    def _remove(self) -> None:
        # One that cannot be removed gets old.
        with contextlib.suppress(OSError):
            self._path.unlink()
