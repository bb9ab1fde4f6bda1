"""``python -m benchmarks``: who is how fast, what it costs as things grow, and how soon it is."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.comparison import Comparison, compare
from benchmarks.contenders import CONTENDERS
from benchmarks.growth import FULL, QUICK, Growth, measure_growth
from benchmarks.latency import Latency, measure_latency
from benchmarks.mixes import MIXES
from benchmarks.processes import BenchmarkError
from benchmarks.report import comparison_table, growth_table, latency_tables, targets_table
from benchmarks.targets import verdicts
from config.log import configure_logging

#: Above this load average the figures say more about the machine than about the contenders.
_QUIET_LOAD: Final = 1.5
_WHAT: Final = ("throughput", "growth", "latency")
_GROWTH_ROUNDS: Final = 3


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and perhaps write a file."""
    options = _parser().parse_args(arguments)
    options.what = options.what or _WHAT
    configure_logging("error", "console")
    # As Ctrl-C does: the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # What is cut off is of no use in a file.
    console = Console(width=max(Console().width, 96))
    about = _about_machine()
    if about["noisy"]:
        console.print(
            f"[yellow]noisy: the load average is {about['load_average']:.2f} before anything has"
            " begun; trust the ratios little, and the figures not at all[/]"
        )
    try:
        with Arena() as arena, console.status("") as status:
            measured = _measure(options, arena, console, status.update)
    except BenchmarkError as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about | measured, indent=2) + "\n", encoding="utf-8")


def _measure(
    options: argparse.Namespace, arena: Arena, console: Console, say: Callable[[str], None]
) -> dict[str, Any]:
    comparisons: list[Comparison] = []
    latency: Latency | None = None
    growth: list[Growth] = []
    if "throughput" in options.what:
        comparisons = _compare_all(options, arena, say)
        console.print(comparison_table(comparisons))
    if "growth" in options.what:
        how_far = QUICK if options.quick else FULL
        rounds = 1 if options.quick else _GROWTH_ROUNDS
        growth = measure_growth(arena, how_far, rounds=rounds, seed=options.seed, say=say)
        console.print(growth_table(growth))
    if "latency" in options.what:
        # The last: it has Postgres start anew, to keep the times of commits.
        seconds = options.seconds or (3 if options.quick else 10)
        latency = measure_latency(arena, seconds=seconds, seed=options.seed, say=say)
        for table in latency_tables(latency):
            console.print(table)
    found = verdicts(comparisons, latency, growth)
    console.print(targets_table(found))
    return {
        "comparisons": [comparison.as_dict() for comparison in comparisons],
        "latency": latency.as_dict() if latency is not None else None,
        "growth": [one.as_dict() for one in growth],
        "targets": [asdict(verdict) for verdict in found],
    }


def _compare_all(
    options: argparse.Namespace, arena: Arena, say: Callable[[str], None]
) -> list[Comparison]:
    names = options.contender or [contender.name for contender in CONTENDERS]
    return [
        compare(
            arena,
            mix,
            [contender for contender in CONTENDERS if contender.name in names],
            events=options.events or (10_000 if options.quick else 100_000),
            rounds=options.rounds or (1 if options.quick else 3),
            seed=options.seed,
            say=say,
        )
        for mix in options.mix or MIXES
    ]


def _about_machine() -> dict[str, Any]:
    load_average = os.getloadavg()[0]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": load_average,
        "noisy": load_average > _QUIET_LOAD,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure how fast, how soon and at what cost; on servers of its own.",
    )
    parser.add_argument(
        "what", nargs="*", choices=[*_WHAT, []], help="of these three; all, if none is named"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        default=os.environ.get("BENCH") == "quick",
        help="a minute or two in place of twenty; or BENCH=quick",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it all there")
    parser.add_argument("--seed", type=int, default=1, help="of the logs")
    throughput = parser.add_argument_group("throughput")
    throughput.add_argument("--events", type=_positive, help="per run")
    throughput.add_argument("--rounds", type=_positive, help="runs of each contender")
    throughput.add_argument("--mix", action="append", choices=list(MIXES), help="may be repeated")
    throughput.add_argument(
        "--contender",
        action="append",
        choices=[contender.name for contender in CONTENDERS],
        help="may be repeated",
    )
    latency = parser.add_argument_group("latency")
    latency.add_argument("--seconds", type=_positive, help="per rate")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


if __name__ == "__main__":
    main()
