"""``python -m benchmarks.isolation``: what two sinks that are away cost all the others.

Runs take turns: with one sink alone, which takes everything; and with two more, of which one
answers 503 and one does not answer at all. In each, events come at a steady rate for as long as
the outage is to be, and then many at once. The figures are how late the first sink has an event
while they come steadily, and how many events a second Postgres has while they come all at once.
Then the other two are well again, and the account is closed: each sink has every event, in order
by capsule, and none twice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.mixes import Log, make_log
from benchmarks.processes import BenchmarkError, Module
from config.log import configure_logging
from tests.reconciliation import GROUP, PREFIX, SECRET, SOURCE, Ground
from tests.worker_process import WorkerProcess

#: What the receivers do during the outage, by name of the sink.
ALONE: Final = {"fast": "take"}
TWO_AWAY: Final = {"fast": "take", "failing": "refuse", "hanging": "hang"}
RUNS: Final[Mapping[str, Mapping[str, str]]] = {"alone": ALONE, "two away": TWO_AWAY}
TIMEOUT_S: Final = 5
_WARM_UP_S: Final = 3.0
#: As good as all at once.
_AT_ONCE_PER_S: Final = 10_000_000
_DRAIN_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What each run is made of."""

    outage_s: int
    rate: int
    burst: int
    seed: int

    @property
    def steady(self) -> int:
        """Events that come at the rate."""
        return self.rate * self.outage_s

    @property
    def events(self) -> int:
        """All events of one run."""
        return self.steady + self.burst


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run came to."""

    p50_ms: float
    p99_ms: float
    postgres_per_s: float
    #: Attempts at the sinks that were away, while they were.
    attempts_away: int


class Receiver(Module):
    """A receiver that can be told what to do."""

    def __init__(self, mode: str, *, directory: Path) -> None:
        super().__init__("moody_receiver", mode, directory=directory)
        self.port = int(self.read_line())

    def tell(self, mode: str) -> None:
        """Have it do something else from now on."""
        self._ask("PUT", "/mode", mode)

    def report(self, since_s: float = 0, until_s: float = 1e11) -> dict[str, Any]:
        """Ask what became of the deliveries of these entries."""
        query = f"since_ms={since_s * 1000}&until_ms={until_s * 1000}"
        told: dict[str, Any] = orjson.loads(self._ask("GET", f"/report?{query}"))
        return told

    def _ask(self, method: str, path: str, body: str = "") -> bytes:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body)
            return connection.getresponse().read()


def measure(arena: Arena, log: Log, plan: Plan, modes: Mapping[str, str]) -> Measured:
    """Make one run, and close its account."""
    arena.restore(entries=False)
    directory = arena.new_directory("isolation")
    receivers = {name: Receiver(mode, directory=directory / name) for name, mode in modes.items()}
    ground = Ground(arena.redis_url, arena.database_url)
    settings = ground.settings(
        CAPSULES_LEASE_S="10", LOG_LEVEL="warning", CAPSULES_SINKS=_sinks(receivers)
    )
    worker = WorkerProcess(directory / "worker", **settings)
    try:
        _wait_for_member(ground, worker)
        began, ended = _publish(arena, plan, directory, first=0, count=plan.steady, rate=plan.rate)
        steady = receivers["fast"].report(began + _WARM_UP_S, ended)
        began, _ = _publish(
            arena, plan, directory, first=plan.steady, count=plan.burst, rate=_AT_ONCE_PER_S
        )
        drained = _wait_for_postgres(ground)
        away = [r.report()["not_taken"] for r in receivers.values()]
        for receiver in receivers.values():
            receiver.tell("take")
        arena.wait_drained(topics=True, timeout_s=_DRAIN_TIMEOUT_S)
        _close_account(log, receivers, worker)
    finally:
        worker.kill()
        for receiver in receivers.values():
            receiver.stop()
    return Measured(steady["p50_ms"], steady["p99_ms"], plan.burst / (drained - began), sum(away))


def _sinks(receivers: Mapping[str, Receiver]) -> str:
    return json.dumps(
        [
            {
                "name": name,
                "type": "webhook",
                "url": f"http://127.0.0.1:{receiver.port}/",
                "secret": SECRET,
            }
            | {"allow_private": True, "timeout_s": TIMEOUT_S}
            for name, receiver in receivers.items()
        ]
    )


def _wait_for_member(ground: Ground, worker: WorkerProcess) -> None:
    deadline = time.monotonic() + 60
    while len(ground.shares()) != 1 or not ground.shares()[0]:
        if time.monotonic() > deadline or worker.process.poll() is not None:
            raise BenchmarkError(f"the worker does not begin: {worker.tail()}")
        time.sleep(0.1)


def _publish(
    arena: Arena, plan: Plan, directory: Path, *, first: int, count: int, rate: int
) -> tuple[float, float]:
    """Publish a part of the log; return when that began and ended."""
    part = (plan.events, plan.seed, first, count, rate)
    publisher = Module(
        "publisher", arena.redis_url, *map(str, part), directory=directory / f"from-{first}"
    )
    try:
        return publisher.wait_ready(), publisher.wait_ready()
    finally:
        publisher.stop()


def _wait_for_postgres(ground: Ground) -> float:
    """Return when nothing was left to do before the hooks."""
    deadline = time.monotonic() + _DRAIN_TIMEOUT_S
    while True:
        asked = time.time()
        if _drained(ground):
            return asked
        if time.monotonic() > deadline:
            raise BenchmarkError("Postgres has not had all events in time")
        time.sleep(0.02)


def _drained(ground: Ground) -> bool:
    with ground.redis() as client:
        for key in [SOURCE.encode(), *sorted(client.keys(f"{PREFIX}capsules:*"))]:
            groups = [g for g in client.xinfo_groups(key) if g["name"] == GROUP.encode()]
            last = client.xinfo_stream(key)["last-generated-id"]
            if not groups or groups[0]["pending"]:
                return False
            if groups[0]["last-delivered-id"] != last and client.xlen(key):
                return False
    return True


def _close_account(log: Log, receivers: Mapping[str, Receiver], worker: WorkerProcess) -> None:
    """Fail unless each sink has each event that is for the hooks, in order, and none twice."""
    payloads = [orjson.loads(payload) for _, payload in log.entries if payload]
    wanted = sum(payload["outcome"] == "success" for payload in payloads)
    for name, receiver in receivers.items():
        told = receiver.report()
        if (told["accepted"], told["out_of_order"]) != (wanted, 0):
            text = f"{name}: {wanted} deliveries expected, but {told}"
            raise BenchmarkError(f"{text}: {worker.tail()}")


def _table(measured: Mapping[str, Sequence[Measured]], plan: Plan) -> Table:
    table = Table(
        *("sinks", "fast p50 ms", "fast p99 ms", "x alone", "Postgres/s", "x alone", "attempts"),
        title=f"{plan.outage_s} s with {plan.rate:,} events/s, then {plan.burst:,} at once",
    )
    alone = measured["alone"]
    for name, runs in measured.items():
        # By pairs: what else the machine does changes from round to round.
        late = statistics.median(b.p99_ms / a.p99_ms for a, b in zip(alone, runs, strict=True))
        fast = statistics.median(
            b.postgres_per_s / a.postgres_per_s for a, b in zip(alone, runs, strict=True)
        )
        table.add_row(
            name,
            f"{statistics.median(run.p50_ms for run in runs):,.1f}",
            f"{statistics.median(run.p99_ms for run in runs):,.1f}",
            f"{late:.2f}",
            f"{statistics.median(run.postgres_per_s for run in runs):,.0f}",
            f"{fast:.2f}",
            f"{statistics.median(run.attempts_away for run in runs):,.0f}",
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--outage-s", type=int, default=60, help="Default: 60.")
    parser.add_argument("--rate", type=int, default=300, help="Events a second. Default: 300.")
    parser.add_argument("--burst", type=int, default=10_000, help="Default: 10,000.")
    parser.add_argument("--rounds", type=int, default=3, help="Default: 3.")
    given = parser.parse_args()
    configure_logging("error", "console")
    console = Console()
    measured: dict[str, list[Measured]] = {name: [] for name in RUNS}
    plan = Plan(given.outage_s, given.rate, given.burst, seed=1)
    log = make_log("all", seed=plan.seed, events=plan.events)
    with Arena() as arena:
        arena.load(log)
        for turn in range(given.rounds):
            # Each round begins with another one.
            for name in list(RUNS) if turn % 2 == 0 else list(RUNS)[::-1]:
                console.print(f"round {turn + 1}: {name}", style="dim")
                measured[name].append(measure(arena, log, plan, RUNS[name]))
                console.print(str(measured[name][-1]), style="dim")
    console.print(_table(measured, plan))


if __name__ == "__main__":
    main()
