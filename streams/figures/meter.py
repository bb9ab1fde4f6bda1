"""What a worker counts: entries by stage and outcome, how long they took, what blocks them.

Everything here is added to in the event loop and read there too, so there are no locks. Counting
is per batch, and latencies are taken from a sample of each batch, weighed, so that measuring
costs far less than the work measured. Latencies come from the ids of entries, which say when
Redis took them in; :attr:`Clock.offset_ms` corrects for the difference between the two clocks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from streams.figures.sink_meter import SinkMeter
from streams.outcomes import Outcome

__all__ = ["BOUNDS", "Clock", "Distribution", "Flow", "Meter", "StageMeter", "quantile"]

T = TypeVar("T")

#: Upper bounds of the buckets, in milliseconds or entries; half again as much at each step.
BOUNDS: Final = tuple(float(base * 2**power) for power in range(22) for base in (1, 1.5))
#: Values of one batch that are looked at, at most; each stands for its share of the others.
_SAMPLE: Final = 32
#: How many snapshots, taken once a tick, the recent past is made of.
RECENT_TICKS: Final = 30


class Clock:
    """The time as Redis has it, by whose clock entries get their ids."""

    def __init__(self) -> None:
        #: Redis' clock minus ours.
        self.offset_ms = 0.0

    def now_ms(self) -> float:
        """Milliseconds since the epoch, by Redis' clock."""
        return time.time() * 1000 + self.offset_ms

    def since(self) -> Callable[[float], float]:
        """Return what says how long ago a moment (in ms, by Redis' clock) is now."""
        now_ms = self.now_ms()
        return lambda ms: max(now_ms - ms, 0.0)


class Distribution:
    """How values spread over the buckets, since the start and in the recent past."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self._past: deque[list[int]] = deque([list(self.counts)], maxlen=RECENT_TICKS)

    def add(self, value: float, weight: int = 1) -> None:
        """Count `value`, `weight` times."""
        self.counts[bisect_left(BOUNDS, value)] += weight
        self.total += value * weight

    def add_sample(self, items: Sequence[T], value: Callable[[T], float]) -> None:
        """Count the value of each of `items`; of a sample of them, weighed, where they are many."""
        step = -(-len(items) // _SAMPLE)
        for start in range(0, len(items), step or 1):
            self.add(value(items[start]), min(step, len(items) - start))

    def tick(self) -> None:
        """Note that some time has passed: what is old enough is no longer recent."""
        self._past.append(list(self.counts))

    def recent(self) -> list[int]:
        """The counts of the recent past, by bucket."""
        return [now - then for now, then in zip(self.counts, self._past[0], strict=True)]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The value below which `share` of the counted values are; None if there are none.

    Straight between the bounds of its bucket, as Prometheus reckons it.
    """
    rank = share * sum(counts)
    below = 0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            low = BOUNDS[index - 1] if index else 0.0
            high = BOUNDS[min(index, len(BOUNDS) - 1)]
            return low + (high - low) * (rank - below) / count
        below += count
    return None


@dataclass(slots=True, eq=False)
class Flow:
    """An edge of the topology, and how many entries have gone over it."""

    source: str
    target: str
    entries: int = 0


@dataclass(slots=True, eq=False)
class StageMeter:
    """One stage, as far as this worker does its work."""

    name: str
    received: int = 0
    outcomes: Counter[tuple[Outcome, str]] = field(default_factory=Counter)
    #: Attempts that failed and are made again, by what they failed at.
    failed: Counter[str] = field(default_factory=Counter)
    #: Entries in each batch that was worked on.
    batches: Distribution = field(default_factory=Distribution)
    #: From an entry's arrival in the stage's own stream to its end there, in ms.
    waited: Distribution = field(default_factory=Distribution)
    #: From its arrival in the producer's stream to its effect, in ms.
    end_to_end: Distribution = field(default_factory=Distribution)
    #: What the stage waits for just now, and since when, by the monotonic clock.
    blocked_by: str = ""
    blocked_since: float = 0.0
    _blocked_before_s: float = 0.0

    def end(self, outcome: Outcome, n: int, detail: str = "") -> None:
        """Count `n` entries that came to `outcome`."""
        self.outcomes[outcome, detail] += n

    def block(self, by: str) -> None:
        """Note that an attempt failed at `by`, and that the stage waits for it until `unblock`."""
        self.failed[by] += 1
        if not self.blocked_by:
            self.blocked_since = time.monotonic()
        self.blocked_by = by

    def unblock(self) -> None:
        """Note that the stage goes on."""
        if self.blocked_by:
            self._blocked_before_s += time.monotonic() - self.blocked_since
            self.blocked_by = ""

    def blocked_s(self) -> float:
        """How long it waits by now; 0 if it does not."""
        return time.monotonic() - self.blocked_since if self.blocked_by else 0.0

    def blocked_total_s(self) -> float:
        """How long it has waited since the start, in all."""
        return self._blocked_before_s + self.blocked_s()

    def ended(self) -> int:
        """Entries that came to an end here."""
        return sum(n for (outcome, _), n in self.outcomes.items() if outcome is not Outcome.RETRY)

    def distributions(self) -> Iterable[Distribution]:
        """All of its distributions."""
        return (self.batches, self.waited, self.end_to_end)


class Meter:
    """All that this worker counts."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stages: dict[str, StageMeter] = {}
        self.flows: dict[tuple[str, str], Flow] = {}
        self.sinks: dict[str, SinkMeter] = {}

    def stage(self, name: str) -> StageMeter:
        """The meter of a stage, made when it is first asked for."""
        return self.stages.setdefault(name, StageMeter(name))

    def flow(self, source: str, target: str) -> Flow:
        """The flow over an edge, likewise."""
        return self.flows.setdefault((source, target), Flow(source, target))

    def tick(self) -> None:
        """Call once a second."""
        for stage in self.stages.values():
            for distribution in stage.distributions():
                distribution.tick()

    def sink(self, name: str) -> SinkMeter:
        """The meter of a sink, likewise."""
        return self.sinks.setdefault(name, SinkMeter(name))
