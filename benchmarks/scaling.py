"""``python -m benchmarks.scaling``: what more workers bring where a stage waits.

Each worker delivers to a sink that takes 5 ms for each event, one at a time. That is waiting and
not work, so two cores are enough to see whether the workers share it.
"""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.mixes import make_log
from benchmarks.processes import Receiver
from config.log import configure_logging
from tests.reconciliation import Ground
from tests.worker_process import WorkerProcess

EVENTS: Final = 3_000
DELAY_MS: Final = 5.0
FLEETS: Final = (1, 2, 4)
ROUNDS: Final = 2


def measure(arena: Arena, workers: int, seed: int) -> float:
    """Return how many events a second `workers` workers deliver."""
    log = make_log("all", seed=seed, events=EVENTS)
    arena.load(log)
    arena.restore(entries=False)
    ground = Ground(arena.redis_url, arena.database_url)
    directory = arena.new_directory(f"fleet-{workers}")
    receiver = Receiver(directory, delay_ms=DELAY_MS)
    settings = ground.settings(CAPSULES_LEASE_S="10", **receiver.settings(concurrency=1))
    fleet = [WorkerProcess(directory / str(n), **settings) for n in range(workers)]
    try:
        arena.wait_shared(workers)
        began = time.time()
        ground.publish(log.entries)
        ended = arena.wait_drained(topics=True, timeout_s=120)
    finally:
        for worker in fleet:
            worker.kill()
        receiver.stop()
    return EVENTS / (ended - began)


def main() -> None:
    """Measure and print."""
    configure_logging("error", "console")
    rates: dict[int, list[float]] = {workers: [] for workers in FLEETS}
    with Arena() as arena:
        for turn in range(ROUNDS):
            for workers in FLEETS:
                rates[workers].append(measure(arena, workers, seed=turn))
    table = Table("workers", "events/s", "of one worker", title="A sink that takes 5 ms an event")
    best = max(rates[1])
    for workers, found in rates.items():
        table.add_row(str(workers), f"{max(found):,.0f}", f"{max(found) / best:.2f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
