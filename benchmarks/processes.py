"""The processes that are measured, and those that help to measure them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.arena import Arena
from tests.reconciliation import SECRET
from tests.worker_process import ROOT, WorkerProcess

__all__ = ["BenchmarkError", "Module", "Receiver", "Reconciler", "webhook_sink"]

_START_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.02
#: Log lines that say that a worker begins to read.
_BEGINS: Final = frozenset({"partitions_taken"})


class BenchmarkError(Exception):
    """A process did not do what it is there for; one line says which and why."""


class Module:
    """``python -m benchmarks.<name>``, whose first line on standard output says it is ready."""

    def __init__(self, name: str, *arguments: str, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._errors = directory / f"{name}.err"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.{name}", *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def read_line(self) -> str:
        """Return the next line it prints.

        Raises:
            BenchmarkError: it ended without one.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise BenchmarkError(f"{self.name} ended: {self.tail()}")
        return line

    def wait_ready(self) -> float:
        """Return the time from which it had all it needs."""
        return float(self.read_line())

    def tail(self) -> str:
        """Return the end of what it wrote to standard error."""
        return self._errors.read_text(encoding="utf-8", errors="replace")[-1000:]

    def stop(self) -> None:
        """End it; what it has done is all in the servers."""
        self._process.kill()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def webhook_sink(name: str, port: int, **more: int) -> dict[str, Any]:
    """Return the settings of a sink that posts to a receiver on this machine."""
    url = f"http://127.0.0.1:{port}/"
    sink = {"name": name, "type": "webhook", "url": url, "secret": SECRET, "allow_private": True}
    return sink | more


class Receiver(Module):
    """A webhook receiver."""

    def __init__(self, directory: Path, *, delay_ms: float = 0) -> None:
        super().__init__("receiver", str(delay_ms), directory=directory)
        self._port = int(self.read_line())

    def settings(self, **more: int) -> dict[str, str]:
        """Return the settings that have a worker deliver here."""
        return {"CAPSULES_SINKS": json.dumps([webhook_sink("receiver", self._port, **more)])}


class Reconciler:
    """A worker of this project, with the settings that a worker has by default, but for some."""

    def __init__(
        self, arena: Arena, *, directory: Path, webhook: bool = False, **settings: str
    ) -> None:
        self._receiver = Receiver(directory) if webhook else None
        sinks = self._receiver.settings() if self._receiver else {}
        self.spawned_at = time.time()
        self._worker = WorkerProcess(
            directory,
            REDIS_URL=arena.redis_url,
            DATABASE_URL=arena.database_url,
            CAPSULES_SOURCE_START_ID="0",
            **sinks,
            **settings,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._worker.process.pid

    def wait_ready(self) -> float:
        """Return the time at which it began to read, as its log has it."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._worker.process.poll() is None:
            for record in self._worker.records():
                if record.get("action") in _BEGINS:
                    return datetime.fromisoformat(record["timestamp"]).timestamp()
            time.sleep(_POLL_S)
        raise BenchmarkError(f"the worker does not begin to read: {self.tail()}")

    def tail(self) -> str:
        """Return the end of its log."""
        return self._worker.tail()[-1000:]

    def stop(self) -> None:
        """End it; what it has done is all in the servers."""
        self._worker.kill()
        if self._receiver is not None:
            self._receiver.stop()
