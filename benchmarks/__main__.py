"""``python -m benchmarks``: who is how fast; ``python -m benchmarks latency``: how soon."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.comparison import compare
from benchmarks.contenders import CONTENDERS
from benchmarks.latency import measure_latency
from benchmarks.mixes import MIXES
from benchmarks.processes import BenchmarkError
from benchmarks.report import comparison_table, latency_tables
from config.log import configure_logging

#: Above this load average the figures say more about the machine than about the contenders.
_QUIET_LOAD: Final = 1.5


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and perhaps write a file."""
    options = _parser().parse_args(arguments)
    configure_logging("error", "console")
    # As Ctrl-C does: the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    about = _about_machine()
    if about["noisy"]:
        console.print(
            f"[yellow]noisy: the load average is {about['load_average']:.2f} before anything has"
            " begun; trust the ratios little, and the figures not at all[/]"
        )
    try:
        with Arena() as arena, console.status("") as status:
            measured = options.measure(options, arena, console, status.update)
    except BenchmarkError as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json is not None:
        options.json.write_text(json.dumps(about | measured, indent=2) + "\n", encoding="utf-8")


def _measure_throughput(
    options: argparse.Namespace, arena: Arena, console: Console, say: Callable[[str], None]
) -> dict[str, Any]:
    names = options.contender or [contender.name for contender in CONTENDERS]
    comparisons = [
        compare(
            arena,
            mix,
            [contender for contender in CONTENDERS if contender.name in names],
            events=options.events,
            rounds=options.rounds,
            seed=options.seed,
            say=say,
        )
        for mix in options.mix or MIXES
    ]
    console.print(comparison_table(comparisons))
    return {"comparisons": [comparison.as_dict() for comparison in comparisons]}


def _measure_latency(
    options: argparse.Namespace, arena: Arena, console: Console, say: Callable[[str], None]
) -> dict[str, Any]:
    latency = measure_latency(arena, seconds=options.seconds, seed=options.seed, say=say)
    for table in latency_tables(latency):
        console.print(table)
    return {"latency": latency.as_dict()}


def _about_machine() -> dict[str, Any]:
    load_average = os.getloadavg()[0]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": load_average,
        "noisy": load_average > _QUIET_LOAD,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.set_defaults(measure=_measure_throughput, json=None, seed=1)
    _add_common(parser)
    parser.add_argument("--events", type=_positive, default=20_000, help="per run")
    parser.add_argument("--rounds", type=_positive, default=3, help="runs of each contender")
    parser.add_argument("--mix", action="append", choices=list(MIXES), help="may be repeated")
    parser.add_argument(
        "--contender",
        action="append",
        choices=[contender.name for contender in CONTENDERS],
        help="may be repeated",
    )
    commands = parser.add_subparsers(title="other measurements")
    latency = commands.add_parser("latency", help="from the entry to the effect, at a steady rate")
    _add_common(latency)
    latency.set_defaults(measure=_measure_latency)
    latency.add_argument("--seconds", type=_positive, default=10, help="per rate")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    # Without defaults: a command's own would replace what was given before its name.
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="write it all there"
    )
    parser.add_argument("--seed", type=int, default=argparse.SUPPRESS, help="of the logs")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


if __name__ == "__main__":
    main()
