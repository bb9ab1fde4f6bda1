"""A worker with webhook sinks, on servers of its own, that is given events part by part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, Self

import orjson

from benchmarks.arena import Arena
from benchmarks.mixes import Log
from benchmarks.processes import BenchmarkError, Module, webhook_sink
from benchmarks.publisher import publish
from tests.reconciliation import Ground
from tests.worker_process import WorkerProcess

__all__ = ["SinksStack"]

TIMEOUT_S: Final = 5
_START_TIMEOUT_S: Final = 60.0
_DRAIN_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.02
#: As good as all at once.
_AT_ONCE_PER_S: Final = 10_000_000


class _Receiver(Module):
    """A receiver that can be told what to do."""

    def __init__(self, mode: str, *, directory: Path) -> None:
        super().__init__("moody_receiver", mode, directory=directory)
        self.port = int(self.read_line())

    def tell(self, mode: str) -> None:
        """Have it do something else from now on."""
        self._ask("PUT", "/mode", mode)

    def report(self) -> dict[str, int]:
        """Ask what became of the deliveries."""
        told: dict[str, int] = orjson.loads(self._ask("GET", "/report"))
        return told

    def late_ms(self, since_s: float, until_s: float) -> list[float]:
        """Ask how late each entry of that time was."""
        query = f"since_ms={since_s * 1000}&until_ms={until_s * 1000}"
        told: list[float] = orjson.loads(self._ask("GET", f"/late?{query}"))
        return told

    def _ask(self, method: str, path: str, body: str = "") -> bytes:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body)
            return connection.getresponse().read()


class SinksStack:
    """The whole way from a stream to its sinks.

    Arguments:
        log: what there is to publish.
        modes: by name of the sink, what its receiver does (``moody_receiver.MODES``).
        watched: the sink whose deliveries are timed; it takes everything.
    """

    def __init__(self, log: Log, modes: Mapping[str, str], *, watched: str) -> None:
        self._log = log
        self._modes = modes
        self._watched = watched
        payloads = [payload for _, payload in log.entries if payload is not None]
        self._payloads = payloads
        #: Those for the hooks, among the first so many.
        self._wanted = [0]
        for payload in payloads:
            is_wanted = orjson.loads(payload)["outcome"] == "success"
            self._wanted.append(self._wanted[-1] + is_wanted)
        self._published = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.arena = stack.enter_context(Arena())
            self.arena.load(self._log)
            self.arena.restore(entries=False)
            directory = self.arena.new_directory("sinks")
            self._receivers: dict[str, _Receiver] = {}
            for name, mode in self._modes.items():
                self._receivers[name] = _Receiver(mode, directory=directory / name)
                stack.callback(self._receivers[name].stop)
            self._ground = ground = Ground(self.arena.redis_url, self.arena.database_url)
            settings = ground.settings(
                CAPSULES_LEASE_S="10", LOG_LEVEL="warning", CAPSULES_SINKS=self._sinks()
            )
            self._worker = WorkerProcess(directory / "worker", **settings)
            stack.callback(self._worker.kill)
            self._until(lambda: any(ground.shares()), "the worker does not begin", _START_TIMEOUT_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _sinks(self) -> str:
        return json.dumps(
            [
                webhook_sink(name, receiver.port, timeout_s=TIMEOUT_S)
                for name, receiver in self._receivers.items()
            ]
        )

    def late_ms(self, count: int, *, rate: float) -> list[float]:
        """Publish `count` entries at `rate`; return how late the watched sink had each event."""
        began = time.time()
        self._publish(count, rate)
        self._wait_for_watched()
        return self._receivers[self._watched].late_ms(began, time.time())

    def postgres_per_s(self, count: int) -> float:
        """Publish `count` entries at once; return how fast Postgres had all of them."""
        began = time.time()
        self._publish(count, _AT_ONCE_PER_S)
        took_s = self.arena.wait_applied(timeout_s=_DRAIN_TIMEOUT_S) - began
        self._wait_for_watched()
        return count / took_s

    @property
    def not_taken(self) -> int:
        """Attempts at sinks that were away."""
        return sum(receiver.report()["not_taken"] for receiver in self._receivers.values())

    def close_account(self) -> None:
        """Have all sinks well again, and wait until each has all of it.

        Raises:
            BenchmarkError: not each has each event that is for the hooks, in order and once.
        """
        for receiver in self._receivers.values():
            receiver.tell("take")
        self.arena.wait_drained(topics=True, timeout_s=_DRAIN_TIMEOUT_S)
        for name, receiver in self._receivers.items():
            told, wanted = receiver.report(), self._wanted[self._published]
            if (told["accepted"], told["out_of_order"]) != (wanted, 0):
                text = f"{name}: {wanted} deliveries expected, but {told}"
                raise BenchmarkError(f"{text}: {self._worker.tail()}")

    def _publish(self, count: int, rate: float) -> None:
        part = self._payloads[self._published : self._published + count]
        assert len(part) == count, "the log is too short"
        self._published += count
        with self._ground.redis() as client:
            publish(client, part, rate)

    def _wait_for_watched(self) -> None:
        watched = self._receivers[self._watched]
        wanted = self._wanted[self._published]
        self._until(
            lambda: watched.report()["accepted"] >= wanted,
            f"{self._watched} does not have all of it",
            _DRAIN_TIMEOUT_S,
        )

    def _until(self, condition: Callable[[], object], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline or self._worker.process.poll() is not None:
                raise BenchmarkError(f"{what}: {self._worker.tail()}")
            time.sleep(_POLL_S)
