"""The workers of one test, one after the other or side by side, on the same servers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.event_log import EventLog
from tests.faults.account import assert_accounted, settled
from tests.faults.dying_worker import DyingWorker
from tests.faults.scene import SMALL
from tests.reconciliation import PREFIX, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

__all__ = ["Crew"]


class Crew:
    """The workers of one test, on the same servers and with the same sink."""

    def __init__(self, ground: Ground, receiver: Receiver, log: EventLog, directory: Path) -> None:
        self.ground = ground
        self.log = log
        self.receiver = receiver
        # A worker that was frozen finds its deliveries answered, and not timed out.
        (sink,) = json.loads(receiver.settings()["CAPSULES_SINKS"])
        sinks = {"CAPSULES_SINKS": json.dumps([sink | {"timeout_s": 60}])}
        self._settings = ground.settings(**sinks, **SMALL)
        self.directory = directory
        self._workers: list[WorkerProcess] = []

    def dying(self, step: str, nth: int, *, end: str = "die", **settings: str) -> DyingWorker:
        """Start a worker that dies at `step`, when it comes to it for the `nth` time."""
        directory = self.directory / str(len(self._workers))
        worker = DyingWorker(directory, step, nth, end=end, **self._settings, **settings)
        self._workers.append(worker)
        return worker

    def healthy(self, **settings: str) -> WorkerProcess:
        """Start a worker that lives on."""
        directory = self.directory / str(len(self._workers))
        worker = WorkerProcess(directory, **self._settings, **settings)
        self._workers.append(worker)
        return worker

    async def finish_with(self, last: WorkerProcess) -> None:
        """Have the `last` worker do what is left, stop it, and account for each entry."""

        def is_done() -> bool:
            assert last.process.poll() is None, last.tail()
            # Also whoever died has to be noticed, and what somebody had to be taken.
            return settled(self.ground) and self.ground.shares() == [self._partitions()]

        await eventually(is_done, what="all done", timeout_s=90)
        assert await last.stop() == 0, last.tail()
        assert_accounted(self.ground, self.log, self.receiver)

    def _partitions(self) -> int:
        with self.ground.redis() as client:
            topics = ("capsules:*", "hooks.*", "dead-letters:*")
            return 1 + sum(len(client.keys(PREFIX + topic)) for topic in topics)

    def kill_all(self) -> None:
        """End whoever still runs."""
        for worker in self._workers:
            worker.kill()
