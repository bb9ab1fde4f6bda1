"""``python -m benchmarks.isolation``: what two sinks that are away cost all the others.

Two workers, each with servers of its own: one has a sink that takes everything (*alone*), the
other has the same and two more, of which one answers 503 and one does not answer at all. For as
long as the outage is to be they are given events at a steady rate, a few seconds one and then the
other, so that what else the machine does meanwhile happens to both. Then, turn by turn, many at
once. The figures are how late the first sink has an event while they come steadily, and how many
events a second Postgres has while they come all at once. There are two of the p99: of all events
together, which a few seconds in which the machine did something else make up alone, and the median
of what it was in each part (``typical p99``), which they do not touch. ``--control`` says how far
either is off where there is no difference at all.

Then the other two are well again, and the account is closed: each sink has every event, in order
by capsule, and none twice.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from math import ceil
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import in_turn
from benchmarks.latency import percentile
from benchmarks.mixes import make_log
from benchmarks.sinks_stack import SinksStack
from config.log import configure_logging

#: What the receivers do during the outage, by name of the sink.
ALONE: Final = {"fast": "take"}
TWO_AWAY: Final = {"fast": "take", "failing": "refuse", "hanging": "hang"}
_DRAWS: Final = 500

Parts = Sequence[Sequence[float]]
Figure = Callable[[Parts], float]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the run is made of."""

    outage_s: float
    rate: int
    part_s: int
    burst: int
    bursts: int

    @property
    def events(self) -> int:
        """Entries that one of the two is given, at most; it has some to warm up as well."""
        turns = ceil(self.outage_s / self.part_s / 2) + 1
        return turns * self.rate * self.part_s + (self.bursts + 1) * self.burst


@dataclass(slots=True)
class Measured:
    """What one of the two came to, part by part."""

    late_ms: list[list[float]]
    postgres_per_s: list[float]
    not_taken: int = 0


def measure(
    stacks: Mapping[str, SinksStack], plan: Plan, say: Callable[[str], None]
) -> dict[str, Measured]:
    """Make the run, and close the accounts."""
    measured = {name: Measured([], []) for name in stacks}
    began = time.monotonic()
    for turn in count():
        for name in in_turn(list(stacks), turn):
            late_ms = stacks[name].late_ms(plan.rate * plan.part_s, rate=plan.rate)
            if turn:  # the first is to warm up
                measured[name].late_ms.append(late_ms)
                text = f"p50 {quantile([late_ms], 0.5):.1f} ms, p99 {quantile([late_ms], 0.99):.1f}"
                say(f"{time.monotonic() - began:.0f} s, {name}: {text}")
        if time.monotonic() - began >= plan.outage_s:
            break
    for turn in range(plan.bursts + 1):
        for name in in_turn(list(stacks), turn):
            per_s = stacks[name].postgres_per_s(plan.burst)
            if turn:
                measured[name].postgres_per_s.append(per_s)
                say(f"{time.monotonic() - began:.0f} s, {name}: Postgres {per_s:,.0f}/s")
    for name, stack in stacks.items():
        measured[name].not_taken = stack.not_taken
        stack.close_account()
    return measured


def quantile(parts: Parts, share: float) -> float:
    """Return the quantile of all parts together."""
    return percentile(sorted(chain.from_iterable(parts)), share)


def ratio(these: Parts, those: Parts, figure: Figure) -> tuple[float, float, float]:
    """Return the ratio of a figure over two series of parts, and where nine in ten of others are.

    These others are of pairs of parts drawn anew from those there are (a bootstrap): what a part
    more or less would have made of it.
    """
    chance = random.Random(1)
    pairs = list(zip(these, those, strict=True))
    drawn = []
    for _ in range(_DRAWS):
        some = chance.choices(pairs, k=len(pairs))
        drawn.append(figure([a for a, _ in some]) / figure([b for _, b in some]))
    drawn.sort()
    return (
        figure(these) / figure(those),
        drawn[int(_DRAWS * 0.05)],
        drawn[int(_DRAWS * 0.95)],
    )


def _table(measured: Mapping[str, Measured], plan: Plan) -> Table:
    table = Table(
        *("sinks", "p50 ms", "x alone", "p99 ms", "x alone", "typical p99", "x alone"),
        *("Postgres/s", "x alone", "attempts"),
        title=f"{plan.outage_s:g} s with {plan.rate:,} events/s, {plan.part_s} s each in turn;"
        f" then {plan.bursts} times {plan.burst:,} at once",
    )
    alone = next(iter(measured.values()))
    for name, found in measured.items():
        figures: list[tuple[Parts, Parts, Figure]] = [
            (found.late_ms, alone.late_ms, lambda parts: quantile(parts, 0.5)),
            (found.late_ms, alone.late_ms, lambda parts: quantile(parts, 0.99)),
            (found.late_ms, alone.late_ms, _typical_p99),
            ([[v] for v in found.postgres_per_s], [[v] for v in alone.postgres_per_s], _middle),
        ]
        cells = []
        for these, those, figure in figures:
            value = figure(these)
            cells.append(f"{value:,.1f}" if value < 1_000 else f"{value:,.0f}")
            if found is alone:
                cells.append("")
                continue
            middle, low, high = ratio(these, those, figure)
            cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        table.add_row(name, *cells, f"{found.not_taken:,}")
    return table


def _typical_p99(parts: Parts) -> float:
    return median(quantile([part], 0.99) for part in parts)


def _middle(parts: Parts) -> float:
    return median(chain.from_iterable(parts))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--outage-s", type=float, default=60, help="Default: 60.")
    parser.add_argument("--rate", type=int, default=150, help="Events a second. Default: 150.")
    parser.add_argument("--part-s", type=int, default=2, help="Turns of so long. Default: 2.")
    parser.add_argument("--burst", type=int, default=2_000, help="Default: 2,000.")
    parser.add_argument("--bursts", type=int, default=10, help="Default: 10.")
    parser.add_argument(
        "--control", action="store_true", help="Both alone: what the method itself adds."
    )
    given = parser.parse_args()
    configure_logging("error", "console")
    console = Console()
    plan = Plan(given.outage_s, given.rate, given.part_s, given.burst, given.bursts)
    log = make_log("all", seed=1, events=plan.events)
    other = ("alone too", ALONE) if given.control else ("two away", TWO_AWAY)
    with (
        SinksStack(log, ALONE, watched="fast") as alone,
        SinksStack(log, other[1], watched="fast") as beside,
    ):
        stacks = {"alone": alone, other[0]: beside}
        measured = measure(stacks, plan, lambda text: console.print(text, style="dim"))
    # As wide as it has to be: what is cut off is of no use in a file.
    Console(width=max(console.width, 150)).print(_table(measured, plan))


if __name__ == "__main__":
    main()
