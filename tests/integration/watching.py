"""What somebody sees of a worker from outside: its metrics, its health, what it asks for."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from config.server_process import free_port
from tests.worker_process import WorkerProcess

__all__ = ["Samples", "WatchedWorker", "frozen"]

#: By the name of the series: its value by its labels.
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


class WatchedWorker(WorkerProcess):
    """A worker with a web server."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.port = free_port()
        super().__init__(directory, CAPSULES_WEB_PORT=str(self.port), **settings)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as response,
        ):
            return response.status, await response.read()

    async def ask(self, path: str) -> tuple[int, Any]:
        """Return the status and the JSON of the answer."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as response,
        ):
            return response.status, await response.json()

    async def scrape(self) -> Samples:
        """Return all samples, parsed as Prometheus does."""
        status, body = await self.get("/metrics")
        assert status == 200
        found: Samples = defaultdict(dict)
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                assert labels not in found[sample.name], "two samples of one series"
                found[sample.name][labels] = sample.value
        return found

    async def answers(
        self, path: str, status: int, *, blaming: str = "", timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """Wait until `path` is answered with `status`, naming the culprit; return the answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found, body = await self.ask(path)
            except (TimeoutError, aiohttp.ClientConnectionError):
                found, body = 0, {}
            culprits = {reason["culprit"] for reason in body.get("reasons", ())}
            if found == status and (blaming in culprits if blaming else True):
                assert isinstance(body, dict)
                return body
            if time.monotonic() > deadline:
                raise AssertionError(f"{path} after {timeout_s} s: {found} {body}\n{self.tail()}")
            await asyncio.sleep(0.1)


@contextmanager
def frozen(pid: int | None) -> Iterator[None]:
    """Stop a server, with the processes it has started, as a machine that hangs would."""
    assert pid is not None
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    for member in family:
        os.kill(member, signal.SIGSTOP)
    try:
        yield
    finally:
        for member in family:
            os.kill(member, signal.SIGCONT)
