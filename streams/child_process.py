"""A command of this program in a process of its own, with its log in a file."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

__all__ = ["ChildProcess"]

_TAIL_BYTES: Final = 16_384
#: What commands a terminal; Faust shows and hides the cursor wherever it writes to.
_NOT_TEXT: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]")


class ChildProcess:
    """``faust -A streams.app <arguments>``; it knows nothing of the terminal's Ctrl-C.

    Arguments:
        name: for people.
        arguments: the command and its options.
        environ: what its environment has beyond this process's.
        log_path: gets what it prints; what an earlier one printed is gone.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environ: Mapping[str, str], log_path: Path
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._arguments = arguments
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Launch it."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "faust", "-A", "streams.app", *self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environ},
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """Its process id, once it was started."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs, and before it was started."""
        return self._process.returncode if self._process else None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def ending(self) -> str:
        """How it ended, for people; empty if it has not."""
        code = self.exit_code
        if code is None:
            return ""
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    async def stop(self, *, timeout_s: float) -> bool:
        """Ask it to end and wait until it has; False if it had to be killed."""
        if self._process is None or not self.is_running:
            return True
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            await self._process.wait()
        return self._process.returncode is not None and self._process.returncode >= 0

    def kill(self) -> None:
        """End it without more ado, if it runs."""
        if self._process is not None and self.is_running:
            self._process.kill()

    def last_lines(self, count: int) -> list[str]:
        """Return the end of its log, for people."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
        lines = [_NOT_TEXT.sub("", line).rstrip() for line in text.splitlines()]
        return [_readable(line) for line in lines if line][-count:]


def _readable(line: str) -> str:
    """Return what a person wants of a JSON log line; any other line as it is."""
    try:
        record = orjson.loads(line)
        level, event = record["level"], record["event"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return line
    error = str(record.get("error") or record.get("exception") or "").strip()
    return f"{level}: {event}" + (f": {error.splitlines()[-1]}" if error else "")
