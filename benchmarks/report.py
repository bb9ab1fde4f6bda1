"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from benchmarks.comparison import BASELINES, Comparison
from benchmarks.latency import Latency

__all__ = ["comparison_table", "latency_tables"]

#: Short, so that the table fits a terminal of 80 columns.
_SHORT: Final = {"one-at-a-time": "x one", "plain-loop": "x plain"}


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One row for each mix and contender."""
    table = _table(
        "Throughput, medians over the rounds",
        ("mix", "contender"),
        ("events/s", *(_SHORT[name] for name in BASELINES), "own us", "pg us", "redis us", "wrong"),
    )
    for comparison in comparisons:
        for name in comparison.runs:
            run = comparison.middle(name)
            table.add_row(
                comparison.mix,
                name,
                f"{run.events_per_s:,.0f}",
                *(_ratio(comparison.ratio(name, baseline)) for baseline in BASELINES),
                *(f"{us:,.0f}" for us in (run.cpu_us.contender, run.cpu_us.postgres, run.cpu_us.redis)),
                f"{run.wrong_rows:,}",
            )
        for name, why in comparison.absent.items():
            table.add_row(comparison.mix, name, why, *[""] * (len(BASELINES) + 4))
        table.add_section()
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


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
