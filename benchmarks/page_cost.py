"""``python -m benchmarks.page_cost``: what the page costs the worker that serves it.

A steady flow, and turns with and without somebody who looks; the machine's other work is in both.
CPU is the worker's own, of one core, by the kernel's account of the process.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.mixes import make_log
from config.log import configure_logging
from config.server_process import free_port
from tests.reconciliation import SOURCE, Ground
from tests.worker_process import WorkerProcess

EVENTS_PER_S: Final = 1_000
#: Short turns, many of them: what else the machine does changes slowly.
SECONDS: Final = 3.0
TURNS: Final = 14
WARM_UP_S: Final = 10.0
#: What a viewer may cost, of one core.
MORE_MAX: Final = 0.03
#: Workers and partitions.
FLEETS: Final = ((1, 16), (10, 64))
_PAYLOADS: Final = 20_000


@contextmanager
def flow(ground: Ground, payloads: list[bytes]) -> Iterator[None]:
    """Publish steadily meanwhile."""
    ended = threading.Event()

    def publish() -> None:
        with ground.redis() as client:
            due, number = time.monotonic(), 0
            while not ended.is_set():
                pipeline = client.pipeline(transaction=False)
                for _ in range(EVENTS_PER_S // 20):
                    number += 1
                    pipeline.xadd(SOURCE, {"payload": payloads[number % len(payloads)]})
                pipeline.execute()
                due += 0.05
                ended.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Viewer:
    """Somebody who looks."""

    def __init__(self, port: int) -> None:
        self.frames = 0
        self.size_bytes = 0
        self._ended = threading.Event()
        self._response = urllib.request.urlopen(
            f"http://127.0.0.1:{port}/topology/events", timeout=15
        )
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.is_set():
            line = self._response.readline()
            self.frames += line.startswith(b"event: frame")
            self.size_bytes = max(self.size_bytes, len(line))

    def leave(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()
        self._response.close()


def cpu_share(pid: int) -> float:
    """Return the share of one core that a process uses, for a while."""
    process = psutil.Process(pid)
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(SECONDS)
    after = process.cpu_times()
    used_s = after.user - before.user + after.system - before.system
    return used_s / (time.monotonic() - began)


def measure(arena: Arena, workers: int, partitions: int) -> tuple[list[float], list[float], int]:
    """Return the CPU without and with a viewer, turn by turn, and the size of a frame."""
    log = make_log("tenth", seed=1, events=_PAYLOADS)
    arena.load(log)
    arena.restore(entries=False)
    with Ground(arena.redis_url, arena.database_url).redis() as client:
        client.flushdb()
    payloads = [payload for _, payload in log.entries if payload is not None]
    ground, port = Ground(arena.redis_url, arena.database_url), free_port()
    sinks = json.dumps([{"name": "log", "type": "log"}])
    settings = ground.settings(
        CAPSULES_LEASE_S="10", CAPSULES_PARTITIONS=str(partitions), LOG_LEVEL="warning",
        CAPSULES_SINKS=sinks,
    )  # fmt: skip
    directory = arena.new_directory(f"page-{workers}")
    fleet = [WorkerProcess(directory / "0", CAPSULES_WEB_PORT=str(port), **settings)]
    fleet += [WorkerProcess(directory / str(n), **settings) for n in range(1, workers)]
    without: list[float] = []
    seen: list[float] = []
    size_bytes = 0
    try:
        arena.wait_shared(workers)
        with flow(ground, payloads):
            time.sleep(WARM_UP_S)
            for _ in range(TURNS):
                without.append(cpu_share(fleet[0].process.pid))
                viewer = Viewer(port)
                frames = viewer.frames
                seen.append(cpu_share(fleet[0].process.pid))
                assert viewer.frames - frames >= SECONDS * 0.6, "it was not renewed every second"
                size_bytes = max(size_bytes, viewer.size_bytes)
                viewer.leave()
                time.sleep(1.2)  # until it is noticed that nobody looks
    finally:
        for worker in fleet:
            worker.kill()
    return without, seen, size_bytes


def main() -> None:
    """Measure and print."""
    configure_logging("error", "console")
    table = Table(
        *("workers", "partitions", "CPU without", "with a viewer", "more", "ratio", "frame"),
        title=f"The page at {EVENTS_PER_S:,} events/s",
    )
    costly = False
    with Arena() as arena:
        for workers, partitions in FLEETS:
            without, seen, size_bytes = measure(arena, workers, partitions)
            # By pairs: what else the machine does changes from turn to turn.
            more = statistics.median(b - a for a, b in zip(without, seen, strict=True))
            costly = costly or more >= MORE_MAX
            ratio = statistics.median(b / a for a, b in zip(without, seen, strict=True))
            table.add_row(
                str(workers),
                str(partitions),
                f"{statistics.median(without):.1%}",
                f"{statistics.median(seen):.1%}",
                f"{more:+.1%}",
                f"{ratio:.2f}x",
                f"{size_bytes / 1024:.1f} KiB",
            )
    Console().print(table)
    if costly:
        sys.exit(f"a viewer costs {MORE_MAX:.0%} of a core or more")


if __name__ == "__main__":
    main()
