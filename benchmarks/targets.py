"""What the measurements are held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.comparison import Comparison
from benchmarks.growth import Growth
from benchmarks.latency import Latency

__all__ = ["Verdict", "verdicts"]

_OURS: Final = "reconciler"
#: By mix and baseline: how many times as fast as it.
_RATIOS: Final = {
    ("all", "one-at-a-time"): 6.0,
    ("all", "plain-loop"): 0.75,
    ("tenth", "one-at-a-time"): 8.0,
    ("tenth", "plain-loop"): 0.75,
    ("all", "faststream"): 1.0,
    ("tenth", "faststream"): 1.0,
    ("hot", "faststream"): 1.0,
}
_HOT_OF_ALL: Final = 0.5
_P99_AT: Final = 1_000
_P99_MS: Final = 30.0
_IDLE_PERCENT: Final = 1.5
_FIRST_EFFECT_S: Final = 3.0
_SPREAD: Final = 1.15


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target, and what was seen."""

    what: str
    target: str
    seen: str
    met: bool


def verdicts(
    comparisons: Sequence[Comparison] = (),
    latency: Latency | None = None,
    growth: Sequence[Growth] = (),
) -> list[Verdict]:
    """Hold what was measured against its targets."""
    found = list(_of_comparisons(comparisons))
    if latency is not None:
        found += _of_latency(latency)
    for one in growth:
        found.append(_of_workers(one) if one.what == "workers" else _of_growth(one))
    return found


def _of_comparisons(comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
    by_mix = {comparison.mix: comparison for comparison in comparisons}
    for (mix, baseline), least in _RATIOS.items():
        ratio = by_mix[mix].ratio(_OURS, baseline) if mix in by_mix else None
        if ratio is not None:
            yield Verdict(f"{mix}: x {baseline}", f">= {least:g}", f"{ratio:.2f}", ratio >= least)
    if all(mix in by_mix and _OURS in by_mix[mix].runs for mix in ("hot", "all")):
        hot, every = (by_mix[mix].middle(_OURS).events_per_s for mix in ("hot", "all"))
        share = hot / every
        yield Verdict("hot: x all", f">= {_HOT_OF_ALL:g}", f"{share:.2f}", share >= _HOT_OF_ALL)


def _of_latency(latency: Latency) -> Iterator[Verdict]:
    for paced in latency.paced:
        if paced.wanted_per_s == _P99_AT:
            yield Verdict(
                f"p99 at {_P99_AT:,}/s, ms",
                f"<= {_P99_MS:g}",
                f"{paced.p99_ms:.1f}",
                paced.p99_ms <= _P99_MS,
            )
    idle, first = latency.idle_cpu_percent, latency.first_effect_s
    yield Verdict("idle CPU, %", f"< {_IDLE_PERCENT:g}", f"{idle:.1f}", idle < _IDLE_PERCENT)
    yield Verdict(
        "start to first effect, s",
        f"< {_FIRST_EFFECT_S:g}",
        f"{first:.2f}",
        first < _FIRST_EFFECT_S,
    )


def _of_growth(growth: Growth) -> Verdict:
    spread = growth.spread()
    smallest, *_, largest = growth.costs
    what = f"cost, {growth.what} {smallest:,} to {largest:,}"
    return Verdict(what, f"<= {_SPREAD:g}", f"{spread:.2f}", spread <= _SPREAD)


def _of_workers(growth: Growth) -> Verdict:
    speeds = {workers: cost.events_per_s for workers, cost in growth.costs.items()}
    ratio = speeds[2] / speeds[1]
    return Verdict("two workers: x one", ">= 1", f"{ratio:.2f}", ratio >= 1)
