"""What an event costs as things grow: the backlog, the capsules, the partitions, the workers.

The cost is processor time of the workers, Postgres and Redis together, which tells more on a
machine with other work to do than the time that passes. One event in ten would change its row at
first; each capsule is as likely as any other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import md5
from statistics import median
from typing import Any, Final
from uuid import UUID

from benchmarks.arena import Arena
from benchmarks.cpu import Used, used_s
from benchmarks.processes import BenchmarkError, Reconciler
from streams.events import Verb
from streams.simulation.payloads import Capsule, report_payload

__all__ = ["FULL", "QUICK", "Cost", "Growth", "Sizes", "measure_growth"]

_TIMEOUT_S: Final = 600.0
_AT: Final = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
_VERBS: Final = (Verb.CREATE, Verb.RESUME, Verb.PAUSE, Verb.DESTROY)
_TEAM: Final = UUID(int=7)
#: Different payloads, at most: a larger backlog has each of them several times.
_PAYLOADS_MAX: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """One setting of everything that may grow."""

    backlog: int = 50_000
    capsules: int = 20_000
    partitions: int = 16
    workers: int = 1
    #: Publish when the workers are there, in place of before.
    live: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured with one setting."""

    events_per_s: float
    #: Microseconds of processor time per event.
    cpu_us: Used


@dataclass(frozen=True, slots=True)
class Growth:
    """One thing that grows, and the cost at each of its sizes."""

    what: str
    costs: dict[int, Cost]

    def spread(self) -> float:
        """How much more the dearest size costs than the cheapest, as a factor."""
        totals = [cost.cpu_us.total for cost in self.costs.values()]
        return max(totals) / min(totals)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for ``--json``."""
        return {
            "what": self.what,
            "costs": {str(size): asdict(cost) for size, cost in self.costs.items()},
        }


#: By what grows, how far.
FULL: Final[dict[str, tuple[int, ...]]] = {
    "backlog": (10_000, 100_000, 1_000_000),
    "capsules": (1_000, 1_000_000),
    "partitions": (1, 16, 64),
    "workers": (1, 2, 4),
}
QUICK: Final[dict[str, tuple[int, ...]]] = {
    "backlog": (10_000, 50_000),
    "capsules": (1_000, 100_000),
    "partitions": (1, 16),
    "workers": (1, 2),
}
#: Less than that is over before a fleet is in step.
_BACKLOG_OF_FLEETS: Final = 100_000
#: Rounds of them for one of anything else: how fast two workers are on two cores differs by a tenth
#: from run to run, and it is told from one by less.
_ROUNDS_OF_FLEETS: Final = 3
#: A backlog that takes long enough not to need another round.
_ONCE: Final = 1_000_000


def measure_growth(
    arena: Arena,
    how_far: dict[str, tuple[int, ...]],
    *,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
) -> list[Growth]:
    """Measure the cost at each size of each thing."""
    found = []
    for what, sizes in how_far.items():
        fleets = what == "workers"
        base = Sizes(backlog=_BACKLOG_OF_FLEETS, live=True) if fleets else Sizes()
        turns = rounds * _ROUNDS_OF_FLEETS if fleets else rounds
        costs: dict[int, list[Cost]] = {size: [] for size in sizes}
        for number in range(turns):
            for size in sizes if number % 2 == 0 else reversed(sizes):
                if number and what == "backlog" and size >= _ONCE:
                    continue
                say(f"{what} {size:,}, round {number + 1} of {turns}")
                grown: dict[str, Any] = {what: size}
                costs[size].append(_measure(arena, replace(base, **grown), seed))
        found.append(Growth(what, {size: _middle(runs) for size, runs in costs.items()}))
    return found


def _middle(runs: list[Cost]) -> Cost:
    return Cost(
        median(run.events_per_s for run in runs),
        Used(
            *(median(getattr(run.cpu_us, of) for run in runs) for of in Used.__dataclass_fields__)
        ),
    )


def _measure(arena: Arena, sizes: Sizes, seed: int) -> Cost:
    arena.fill(sizes.capsules)
    payloads = list(_payloads(sizes, seed))
    if not sizes.live:
        arena.publish_many(payloads, sizes.backlog)
    with ExitStack() as stack:
        fleet = []
        for number in range(sizes.workers):
            worker = Reconciler(
                arena,
                directory=arena.new_directory(f"worker-{number}"),
                CAPSULES_PARTITIONS=str(sizes.partitions),
            )
            stack.callback(worker.stop)
            fleet.append(worker)
        begun_at = max(worker.wait_ready() for worker in fleet)
        try:
            if sizes.live:
                arena.wait_shared(sizes.workers)
            before = _used(arena, fleet)
            if sizes.live:
                begun_at = time.time()
                arena.publish_many(payloads, sizes.backlog)
            ended_at = arena.wait_drained(topics=True, timeout_s=_TIMEOUT_S)
        except TimeoutError as exc:
            raise BenchmarkError(f"{sizes}: {exc}: {fleet[0].tail()}") from exc
        used = _used(arena, fleet) - before
    return Cost(sizes.backlog / (ended_at - begun_at), used * 1e6 / sizes.backlog)


def _used(arena: Arena, fleet: list[Reconciler]) -> Used:
    return Used(
        sum(used_s(worker.pid) for worker in fleet),
        used_s(arena.postgres_pid),
        used_s(arena.redis_pid),
    )


def capsule_uuid(number: int) -> UUID:
    """Return the id of one capsule of those that :meth:`Arena.fill` makes."""
    return UUID(md5(str(number).encode(), usedforsecurity=False).hexdigest())


def _payloads(sizes: Sizes, seed: int) -> Iterator[bytes]:
    rng = random.Random(f"{sizes.capsules}/{seed}")
    for _ in range(min(sizes.backlog, _PAYLOADS_MAX)):
        capsule_id = capsule_uuid(rng.randrange(sizes.capsules))
        capsule = Capsule(capsule_id, _TEAM, _TEAM, "10.0.0.1")
        yield report_payload(rng, capsule, rng.choice(_VERBS), _AT, failed=False, autonomous=False)
