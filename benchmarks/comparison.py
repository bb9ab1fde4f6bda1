"""Contenders against each other: rounds in which each has its turn, and what they come to.

A machine's speed changes from minute to minute, and less from one run to the next. So what is
compared are runs of the same round, and of those ratios the median is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, TypeVar

from benchmarks.arena import Arena
from benchmarks.contenders import Contender, Run, run_once
from benchmarks.cpu import Used
from benchmarks.mixes import make_log
from tests.oracle import replay

__all__ = ["BASELINES", "Comparison", "compare", "in_turn"]

T = TypeVar("T")

#: What the others are set in relation to, where it takes part.
BASELINES: Final = ("one-at-a-time", "plain-loop", "faststream", "faststream-in-order")


@dataclass(frozen=True, slots=True)
class Comparison:
    """All runs of one mix."""

    mix: str
    events: int
    #: Rows that are not at the end what they were before.
    changed_rows: int
    #: By contender, round by round; of those that did not take part, why.
    runs: dict[str, list[Run]]
    absent: dict[str, str]

    def ratio(self, name: str, baseline: str) -> float | None:
        """Return how many times as fast as `baseline`, or None without a run of both."""
        pairs = list(zip(self.runs.get(name, ()), self.runs.get(baseline, ()), strict=False))
        if not pairs:
            return None
        return median(run.events_per_s / base.events_per_s for run, base in pairs)

    def middle(self, name: str) -> Run:
        """Return the medians over the rounds; of wrong rows the most there were."""
        runs = self.runs[name]
        return Run(
            median(run.events_per_s for run in runs),
            Used(
                median(run.cpu_us.contender for run in runs),
                median(run.cpu_us.postgres for run in runs),
                median(run.cpu_us.redis for run in runs),
            ),
            max(run.wrong_rows for run in runs),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for ``--json``."""
        contenders: dict[str, Any] = {
            name: {
                "median": asdict(self.middle(name)),
                "rounds": [asdict(run) for run in runs],
                "ratios": {baseline: self.ratio(name, baseline) for baseline in BASELINES},
            }
            for name, runs in self.runs.items()
        }
        return {
            "mix": self.mix,
            "events": self.events,
            "changed_rows": self.changed_rows,
            "contenders": contenders | {name: {"absent": why} for name, why in self.absent.items()},
        }


def compare(
    arena: Arena,
    mix: str,
    contenders: Sequence[Contender],
    *,
    events: int,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
) -> Comparison:
    """Let `contenders` work through one log, in turn, `rounds` times."""
    log = make_log(mix, events=events, seed=seed)
    changed_rows = sum(row.last_updated_set for row in replay(log.rows, log.entries).rows.values())
    arena.load(log)
    present = [contender for contender in contenders if not contender.absent]
    runs: dict[str, list[Run]] = {contender.name: [] for contender in present}
    for number in range(rounds):
        for contender in in_turn(present, number):
            say(f"{mix}, round {number + 1} of {rounds}: {contender.name}")
            runs[contender.name].append(run_once(arena, contender, log))
    absent = {contender.name: contender.absent for contender in contenders if contender.absent}
    return Comparison(mix, events, changed_rows, runs, absent)


def in_turn(items: Sequence[T], number: int) -> Iterator[T]:
    """Give the items of round `number`, each round beginning with another one."""
    for place in range(len(items)):
        yield items[(number + place) % len(items)]
