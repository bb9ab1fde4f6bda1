"""The workers of a soak: who is there, who was replaced, and how they ended."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import redis

from tests.reconciliation import PREFIX, Ground
from tests.soak.history import History
from tests.worker_process import ENDS_BY_SIGTERM, WorkerProcess

__all__ = ["Crew"]

STOP_WITHIN_S = 60.0
TAKEOVER_WITHIN_S = 60.0


class Crew:
    """Workers under names; the first one is kept for the whole run, the others come and go."""

    def __init__(
        self, ground: Ground, directory: Path, history: History, settings: dict[str, str]
    ) -> None:
        self._ground = ground
        self._directory = directory
        self._history = history
        self._settings = settings
        self._number = 0
        self._watchers: list[threading.Thread] = []
        self.workers: dict[str, WorkerProcess] = {}
        #: How long it took until what a killed worker held was held by others, in seconds.
        self.takeovers_s: list[float] = []
        #: Resident bytes of the one that is kept, by seconds since the epoch.
        self.rss: list[tuple[float, int]] = []
        #: What should not be: exit codes, tracebacks, faults of the program.
        self.complaints: list[str] = []
        self._stopping: list[tuple[str, WorkerProcess]] = []

    def start(self) -> str:
        """Start one more worker, and return its name."""
        self._number += 1
        name = f"worker-{self._number}"
        worker = WorkerProcess(self._directory / name, **self._settings, CAPSULES_WORKER_NAME=name)
        self.workers[name] = worker
        self._history.note("worker_started", worker=name, process=worker.process.pid)
        return name

    def any_but_the_kept(self, rng: random.Random) -> str:
        """The name of a worker that may be ended."""
        return rng.choice(sorted(self.workers)[1:])

    def kill(self, name: str) -> None:
        """End one by SIGKILL, start another, and see how long it takes to take over."""
        held = self._held_by(name)
        worker = self.workers.pop(name)
        worker.kill()
        watcher = threading.Thread(target=self._watch_takeover, args=(held, time.monotonic()))
        watcher.start()
        self._watchers.append(watcher)
        self.start()

    def stop(self, name: str) -> None:
        """Ask one to stop, and start another at once."""
        worker = self.workers.pop(name)
        worker.signal(signal.SIGTERM)
        self._stopping.append((name, worker))
        self.start()

    def freeze(self, name: str, seconds: float) -> None:
        """Freeze one for a while."""
        self.workers[name].signal(signal.SIGSTOP)
        time.sleep(seconds)  # the fault itself
        self.workers[name].signal(signal.SIGCONT)

    def sample(self) -> None:
        """Note how much memory the one that is kept has."""
        first = self.workers[min(self.workers, key=_number)]
        self.rss.append((time.time(), psutil.Process(first.process.pid).memory_info().rss))

    def check_alive(self) -> None:
        """Complain of workers that have ended by themselves."""
        for name, worker in list(self.workers.items()):
            if worker.process.poll() is not None:
                self.complaints.append(f"{name} ended by itself: {worker.process.returncode}")
                del self.workers[name]

    def end(self) -> None:
        """Stop all that are left, and look at how everybody has ended and what they said."""
        for watcher in self._watchers:
            watcher.join(TAKEOVER_WITHIN_S)
        for name in list(self.workers):
            worker = self.workers.pop(name)
            worker.signal(signal.SIGTERM)
            self._stopping.append((name, worker))
        for name, worker in self._stopping:
            code = worker.process.wait(STOP_WITHIN_S)
            self._history.note("worker_ended", worker=name, code=code)
            if code not in ENDS_BY_SIGTERM:
                self.complaints.append(f"{name} ended with {code}")
        for log in sorted(self._directory.glob("worker-*/worker.log")):
            text = log.read_text(encoding="utf-8", errors="replace")
            for sign in ("Traceback", '"stage_stuck"', '"level": "critical"'):
                if sign in text:
                    self.complaints.append(f"{log.parent.name}: {sign} in {log}")

    def kill_all(self) -> None:
        """End whatever still runs."""
        for worker in [*self.workers.values(), *(worker for _, worker in self._stopping)]:
            if worker.process.poll() is None:
                worker.kill()

    def _held_by(self, name: str) -> dict[bytes, bytes]:
        """The partitions of a worker, each with the token it is held by; empty if Redis is away."""
        with self._ground.redis() as client:
            try:
                members = client.hgetall(f"{PREFIX}fleet:members")
                owners = client.hgetall(f"{PREFIX}fleet:owners")
            except redis.RedisError:
                return {}
        tokens = {token for token, said in members.items() if json.loads(said)["worker"] == name}
        return {partition: token for partition, token in owners.items() if token in tokens}

    def _watch_takeover(self, held: dict[bytes, bytes], since_s: float) -> None:
        while held and time.monotonic() - since_s < TAKEOVER_WITHIN_S:
            with self._ground.redis() as client:
                try:
                    owners = client.hgetall(f"{PREFIX}fleet:owners")
                except redis.RedisError:
                    owners = held
            if all(owners.get(partition, token) != token for partition, token in held.items()):
                self.takeovers_s.append(round(time.monotonic() - since_s, 2))
                return
            time.sleep(0.1)


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])
