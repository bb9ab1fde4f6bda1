"""End-to-end latency: from the id that Redis gave an entry to the commit of its effect.

One worker, and a publisher in another process that keeps to a rate. Every event changes a row.
All clocks are this machine's. The row's own ``last_updated`` is the time at which the statement
began; Postgres is asked for the time of the commit, which is a little later and what others see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

import psutil

from benchmarks.arena import Arena
from benchmarks.cpu import CpuMeter
from benchmarks.mixes import make_log
from benchmarks.processes import BenchmarkError, Module, Reconciler

__all__ = ["RATES", "Latency", "Paced", "measure_latency", "percentile"]

RATES: Final = (100, 1_000, 5_000)
_DRAIN_TIMEOUT_S: Final = 60.0
_SETTLE_S: Final = 1.0
_IDLE_S: Final = 5.0

_LATENCIES: Final = """
    select extract(epoch from pg_xact_commit_timestamp(s.xmin)) * 1000 - w.ms
    from sandboxes as s
    inner join capsule_reconciler.watermarks as w on w.capsule_id = s.id
    where w.ms >= %s and s.last_updated is not null
    order by 1
"""
_FIRST_EFFECT: Final = """
    select extract(epoch from min(pg_xact_commit_timestamp(xmin))) from sandboxes
    where last_updated is not null
"""


@dataclass(frozen=True, slots=True)
class Paced:
    """What was measured while events came at one rate."""

    wanted_per_s: int
    #: What the publisher came to; less than wanted, and the machine is too slow for this.
    published_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    #: Of one core.
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class Latency:
    """What was measured of one worker."""

    #: From the launch of the process to the commit of its first effect.
    first_effect_s: float
    idle_cpu_percent: float
    #: At the end.
    rss_mib: float
    paced: list[Paced]

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for ``--json``."""
        return asdict(self)


def measure_latency(
    arena: Arena, *, seconds: int, seed: int, say: Callable[[str], None]
) -> Latency:
    """Start one worker and measure it, idle and at each of :data:`RATES`."""
    arena.set_in_postgres("track_commit_timestamp", "on")
    events = 1 + seconds * sum(RATES)
    log = make_log("all", events=events, seed=seed)
    arena.load(log)
    arena.restore(entries=False)
    say("start")
    first_payload = log.entries[0][1]
    assert first_payload is not None
    arena.publish(first_payload)
    worker = Reconciler(arena, directory=arena.new_directory("latency"))
    try:
        worker.wait_ready()
        first_effect_s = _first_effect_at(arena) - worker.spawned_at
        say("idle")
        time.sleep(_SETTLE_S)
        idle = CpuMeter(worker.pid)
        time.sleep(_IDLE_S)
        idle_cpu_percent = idle.percent()
        paced: list[Paced] = []
        done = 1
        for rate in RATES:
            say(f"{rate} events a second for {seconds} s")
            part = [events, seed, done, rate * seconds, rate]
            paced.append(_measure_paced(arena, worker, part))
            done += rate * seconds
        rss_mib = psutil.Process(worker.pid).memory_info().rss / 2**20
    finally:
        worker.stop()
    return Latency(first_effect_s, idle_cpu_percent, rss_mib, paced)


def _first_effect_at(arena: Arena) -> float:
    arena.wait_drained(topics=True, timeout_s=_DRAIN_TIMEOUT_S)
    with arena.cursor() as cursor:
        cursor.execute(_FIRST_EFFECT)
        return float(cursor.fetchone()[0])


def _measure_paced(arena: Arena, worker: Reconciler, part: Sequence[int]) -> Paced:
    *_, count, rate = part
    directory = arena.new_directory("publisher")
    publisher = Module("publisher", arena.redis_url, *map(str, part), directory=directory)
    try:
        begun_at = publisher.wait_ready()
        meter = CpuMeter(worker.pid)
        ended_at = publisher.wait_ready()
        cpu_percent = meter.percent()
    finally:
        publisher.stop()
    arena.wait_drained(topics=True, timeout_s=_DRAIN_TIMEOUT_S)
    with arena.cursor() as cursor:
        cursor.execute(_LATENCIES, (int(begun_at * 1000),))
        latencies_ms = [float(latency) for (latency,) in cursor.fetchall()]
    if len(latencies_ms) != count:
        raise BenchmarkError(f"{len(latencies_ms)} effects of {count} events: {worker.tail()}")
    return Paced(
        wanted_per_s=rate,
        published_per_s=count / (ended_at - begun_at),
        p50_ms=percentile(latencies_ms, 0.50),
        p99_ms=percentile(latencies_ms, 0.99),
        max_ms=latencies_ms[-1],
        cpu_percent=cpu_percent,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all are not above."""
    return ordered[ceil(len(ordered) * share) - 1]
