"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, Final

from rich.table import Table

from benchmarks.comparison import BASELINES, Comparison
from benchmarks.growth import Growth
from benchmarks.latency import Latency
from benchmarks.targets import Verdict

__all__ = ["comparison_table", "growth_table", "latency_tables", "targets_table"]

#: Short, so that the table fits a terminal of 90 columns.
_SHORT: Final = {
    "one-at-a-time": "x one",
    "plain-loop": "x plain",
    "faststream": "x fs",
    "faststream-in-order": "x ord",
}


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One row for each mix and contender."""
    table = _table(
        "Throughput, medians over the rounds; own, pg, rd (Redis): CPU us per event",
        ("mix", "contender"),
        ("events/s", *(_SHORT[name] for name in BASELINES), "own", "pg", "rd", "wrong"),
    )
    for comparison in comparisons:
        for name in comparison.runs:
            run = comparison.middle(name)
            table.add_row(
                comparison.mix,
                _short(name),
                f"{run.events_per_s:,.0f}",
                *(_ratio(comparison.ratio(name, baseline)) for baseline in BASELINES),
                *(
                    f"{us:,.0f}"
                    for us in (run.cpu_us.contender, run.cpu_us.postgres, run.cpu_us.redis)
                ),
                f"{run.wrong_rows:,}",
            )
        for name, why in comparison.absent.items():
            table.add_row(comparison.mix, _short(name), why, *[""] * (len(BASELINES) + 4))
        table.add_section()
    return table


def growth_table(growth: Sequence[Growth]) -> Table:
    """One row for each size of each thing that grows."""
    table = _table(
        "Cost of an event as things grow, CPU us",
        ("what",),
        ("size", "events/s", "workers", "postgres", "redis", "all", "x least"),
    )
    for one in growth:
        least = min(cost.cpu_us.total for cost in one.costs.values())
        for size, cost in one.costs.items():
            us = cost.cpu_us
            table.add_row(
                one.what,
                f"{size:,}",
                f"{cost.events_per_s:,.0f}",
                *(f"{part:,.0f}" for part in (*astuple(us), us.total)),
                f"{us.total / least:.2f}",
            )
        table.add_section()
    return table


def targets_table(found: Sequence[Verdict]) -> Table:
    """One row for each target."""
    table = _table("Targets", ("what",), ("target", "seen", "met"))
    for verdict in found:
        met = "yes" if verdict.met else "[red]no[/]"
        table.add_row(verdict.what, verdict.target, verdict.seen, met)
    return table


def latency_tables(latency: Latency) -> list[Table]:
    """One row for each rate, and one for the worker."""
    paced = _table(
        "From the entry's id to the commit of its effect",
        (),
        ("wanted/s", "published/s", "p50 ms", "p99 ms", "max ms", "CPU %"),
    )
    for one in latency.paced:
        paced.add_row(
            f"{one.wanted_per_s:,}",
            f"{one.published_per_s:,.0f}",
            *(f"{ms:,.1f}" for ms in (one.p50_ms, one.p99_ms, one.max_ms)),
            f"{one.cpu_percent:.0f}",
        )
    worker = _table("The worker", (), ("start to first effect s", "idle CPU %", "RSS MiB"))
    worker.add_row(
        f"{latency.first_effect_s:.2f}",
        f"{latency.idle_cpu_percent:.1f}",
        f"{latency.rss_mib:.0f}",
    )
    return [paced, worker]


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        options: dict[str, Any] = {"justify": "right", "no_wrap": True}
        table.add_column(name, **options)
    return table


def _short(name: str) -> str:
    return (
        name.replace("reconciler", "ours")
        .replace("one-at-a-time", "one by one")
        .replace("faststream-in-order", "fs in order")
    )


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
