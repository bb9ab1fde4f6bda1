"""How fast what a worker held flows again, and that nobody else is disturbed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.event_log import EventLog, generate
from tests.faults.fleet import until
from tests.oracle import replay
from tests.reconciliation import PREFIX, Ground, assert_same
from tests.worker_process import WorkerProcess

#: What is measured here is measured on a machine that does nothing else.
pytestmark = pytest.mark.alone

LEASE_S = 3.0
EVENTS_PER_S = 1_000


class Flow:
    """Events at a steady rate, from a thread of its own."""

    def __init__(self, ground: Ground, log: EventLog) -> None:
        self._ground = ground
        self._log = log
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.published = 0

    @contextmanager
    def running(self) -> Iterator[Flow]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(30)

    def _run(self) -> None:
        portion = EVENTS_PER_S // 20
        due = time.monotonic()
        while not self._over.is_set() and self.published < len(self._log.entries):
            self._ground.publish(self._log.entries[self.published : self.published + portion])
            self.published += portion
            due += 1 / 20
            self._over.wait(max(due - time.monotonic(), 0))

    def finish(self) -> None:
        """Publish what is left, at once."""
        self._over.set()
        self._thread.join(30)  # in the middle of a portion, perhaps
        self._ground.publish(self._log.entries[self.published :])


def read_up_to_ms(ground: Ground) -> dict[str, int]:
    """When what was read last was routed, by the name of each partition of ``capsules``.

    Under a steady flow that moves on with the clock, however many events share an entry.
    """
    with ground.redis() as client:
        groups = {n: client.xinfo_groups(f"{PREFIX}capsules:{n}")[0] for n in range(16)}
    return {
        f"capsules:{n}": int(group["last-delivered-id"].partition(b"-")[0])
        for n, group in groups.items()
    }


def holdings(ground: Ground) -> dict[str, set[str]]:
    """The partitions of each worker, by the worker's name."""
    with ground.redis() as client:
        members = client.hgetall(f"{PREFIX}fleet:members")
        owners = client.hgetall(f"{PREFIX}fleet:owners")
    names = {token: json.loads(said)["worker"] for token, said in members.items()}
    held: dict[str, set[str]] = {name: set() for name in names.values()}
    for partition, token in owners.items():
        held[names[token]].add(partition.decode())
    return held


@pytest.fixture
def workers(ground: Ground, tmp_path: Path) -> Iterator[dict[str, WorkerProcess]]:
    with ExitStack() as stack:
        started = {}
        for name in ("one", "two", "three", "four"):
            settings = ground.settings(CAPSULES_LEASE_S=str(LEASE_S), CAPSULES_WORKER_NAME=name)
            worker = WorkerProcess(tmp_path / name, **settings)
            stack.callback(worker.kill)
            started[name] = worker
        until(lambda: ground.is_shared_by(4), what="all shared")
        yield started


def not_the_router(ground: Ground) -> str:
    """A worker that does not read the source: what it holds is its own loss only."""
    held = holdings(ground)
    return next(name for name, partitions in held.items() if "wrenn:events:0" not in partitions)


def stopped(worker: WorkerProcess) -> int:
    """Stop a worker as an operator would; its exit code."""
    worker.signal(signal.SIGTERM)
    return worker.process.wait(30)


def held_by_others(ground: Ground, victim: str) -> set[str]:
    """The partitions of all workers but one."""
    return {p for name, held in holdings(ground).items() if name != victim for p in held}


@pytest.mark.parametrize(
    ("number", "within_s"), [(signal.SIGKILL, LEASE_S + 2), (signal.SIGTERM, 1.0)]
)
def test_what_a_worker_held_flows_again_soon_and_the_rest_flows_on(
    ground: Ground, workers: dict[str, WorkerProcess], number: signal.Signals, within_s: float
) -> None:
    log = generate(51, events=60 * EVENTS_PER_S, capsules=1_000)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    with Flow(ground, log).running() as flow:
        until(lambda: min(read_up_to_ms(ground).values()) > 0, what="a flow everywhere")
        victim = not_the_router(ground)
        lost = {name for name in holdings(ground)[victim] if name.startswith("capsules")}
        before = read_up_to_ms(ground)
        time.sleep(LEASE_S)  # a sample of the flow, as long as the one to compare it with
        start = read_up_to_ms(ground)
        gone_at = time.monotonic()
        workers[victim].signal(number)
        until(lambda: lost <= held_by_others(ground, victim), what="new owners")
        taken = read_up_to_ms(ground)
        until(
            lambda: all(read_up_to_ms(ground)[name] > taken[name] for name in lost),
            what="what it held flows",
        )
        took_s = time.monotonic() - gone_at
        time.sleep(max(LEASE_S - took_s, 0))
        after, window_s = read_up_to_ms(ground), time.monotonic() - gone_at
        assert took_s < within_s + 0.5  # half a second for looking
        others = set(before) - lost
        usual = sum(start[name] - before[name] for name in others) / LEASE_S
        meanwhile = sum(after[name] - start[name] for name in others) / window_s
        assert meanwhile > 0.75 * usual, (meanwhile, usual)
        flow.finish()
    until(ground.drained, what="all done")
    for name, worker in workers.items():
        if name != victim:
            assert stopped(worker) == 0
    expected.deliveries.clear()
    assert_same(ground.outcome(), expected)


def test_another_worker_routes_when_the_one_that_did_is_killed(
    ground: Ground, workers: dict[str, WorkerProcess]
) -> None:
    log = generate(52, events=10_000, capsules=500)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    ground.publish(log.entries[:5_000])
    router = next(name for name, held in holdings(ground).items() if "wrenn:events:0" in held)
    killed_at = time.monotonic()
    workers[router].kill()
    ground.publish(log.entries[5_000:])
    until(
        lambda: any(
            "wrenn:events:0" in held for name, held in holdings(ground).items() if name != router
        ),
        what="another router",
    )
    assert time.monotonic() - killed_at < LEASE_S + 2
    until(ground.drained, what="all done")
    for name, worker in workers.items():
        if name != router:
            assert stopped(worker) == 0
    expected.deliveries.clear()
    assert_same(ground.outcome(), expected)
