"""Real workers as tests see them: a process, its log, and signals."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tests.fork_server import Order
from tests.forked_process import ROOT, ForkedProcess

__all__ = ["ENDS_BY_SIGTERM", "ROOT", "WorkerProcess", "eventually"]

Process = ForkedProcess | subprocess.Popen[bytes]

#: How a worker may end by SIGTERM: one that has not come to handle signals yet dies of it, and one
#: that still looks whether it can start says so by its code.
ENDS_BY_SIGTERM = (0, -signal.SIGTERM, 128 + signal.SIGTERM)


async def eventually(check: Callable[[], object], *, what: str, timeout_s: float = 30.0) -> None:
    """Wait until `check` is true; fails, saying `what` did not come, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(0.02)


class WorkerProcess:
    """``faust -A streams.app worker`` in a process of its own.

    Arguments:
        directory: where the log goes and the worker runs.
        loop: Faust's name of the event loop.
        settings: environment variables, beside those of this process that are not settings.
    """

    #: What Python runs.
    module: ClassVar[str] = "faust"
    #: Tests have workers forked, which is quicker; what is measured starts as it does elsewhere.
    is_forked: ClassVar[bool] = False

    _started: ClassVar[list[Process]] = []

    def __init__(self, directory: Path, *, loop: str = "aio", **settings: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / "worker.log"
        self.output_path = directory / "worker.out"
        with self.log_path.open("ab") as log, self.output_path.open("ab") as output:
            self.process = self._start(
                ["-A", "streams.app", "--loop", loop, "worker"],
                directory,
                self.environment(**settings),
                (output.fileno(), log.fileno()),
            )
        self._started.append(self.process)

    def _start(
        self,
        arguments: list[str],
        directory: Path,
        environment: dict[str, str],
        outputs: tuple[int, int],
    ) -> Process:
        if self.is_forked:
            order = Order(self.module, arguments, str(directory), environment, leads_session=True)
            return ForkedProcess(order, (0, *outputs))
        return subprocess.Popen(
            [sys.executable, "-m", self.module, *arguments],
            cwd=directory,
            env=environment,
            stdout=outputs[0],
            stderr=outputs[1],
            start_new_session=True,
        )

    @classmethod
    def end_all(cls) -> None:
        """Kill what a test has left running that failed: it would work in the next one's Redis."""
        while cls._started:
            process = cls._started.pop()
            if process.poll() is None:
                process.kill()
                process.wait(10)

    @staticmethod
    def environment(**settings: str) -> dict[str, str]:
        """The environment of a process that has these settings and no others."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CAPSULES_")
            and name not in ("REDIS_URL", "DATABASE_URL", "LOG_LEVEL")
        }
        return inherited | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | settings

    def records(self) -> list[dict[str, Any]]:
        """All structured lines of the log so far."""
        found = []
        for line in self.log_path.read_text(encoding="utf-8").splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:  # the last line may be half written
                    continue
        return found

    def said(self, action: str) -> bool:
        """Whether a line with this action is in the log."""
        return any(record.get("action") == action for record in self.records())

    async def wait_for(self, action: str, *, timeout_s: float = 30.0) -> None:
        """Wait until a line with this action is in the log."""

        def seen() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended:\n{self.tail()}")
            return self.said(action)

        await eventually(seen, what=f"log line {action}", timeout_s=timeout_s)

    def tail(self) -> str:
        """The end of the log, for messages."""
        return self.log_path.read_text(encoding="utf-8")[-3000:]

    def kill(self) -> None:
        """End it as a crash of the machine would."""
        self.process.kill()
        self.process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def stop(self, *, timeout_s: float = 30.0) -> int:
        """End it as an operator would, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended(timeout_s=timeout_s)

    async def ended(self, *, timeout_s: float = 30.0) -> int:
        """Wait until it has ended, and return the exit code."""
        try:
            return await asyncio.to_thread(self.process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.tail()}") from None


# Also what the last test of a run has left, if it failed.
atexit.register(WorkerProcess.end_all)
