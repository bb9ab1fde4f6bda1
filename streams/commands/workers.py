"""``workers``: who is there, how they are, and what they read.

Exit codes: 0; 1, Redis failed; 2, the line cannot be used; 3, no worker tells how it is.

With ``--json`` it prints one document; fields may be added to it, none are removed or changed while
``version`` is 1::

    {"version": 1,
     "workers": [{"worker", "version", "pid", "up_s", "cpu": share of one core, "rss_bytes",
                  "ready": bool, "not_ready": why, or empty,
                  "partitions": {topic: [numbers]}}],
     "silent": [{"worker", "partitions": how many it holds}]}

Silent is who is a member of the fleet and tells no figures: it was killed or frozen a moment ago,
or is of a version that tells none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import orjson
from faust.cli.base import option
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from streams.commands.command import ReconcilerCommand
from streams.figures.fleet import read_figures
from streams.printable import printable
from streams.short import short_age
from streams.transport import broker_errors, read_workers

__all__ = ["workers"]

_NOBODY: Final = 3


class workers(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Show the workers of the fleet: version, CPU, memory, partitions, and whether they are ready.

    Ends with exit code 3 where no worker is there.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
    ]

    async def run(self, as_json: bool) -> None:
        """Look once."""
        layout = self.reconciler_app.redis_layout
        async with self.redis() as client:
            with broker_errors("TIME"):
                seconds, micros = await client.time()
            found = await read_figures(client, layout, now_s=seconds + micros / 1e6)
            members = await read_workers(client, layout)
        told = [about for said in found if (about := _about(said))]
        heard = {said["worker"] for said in told}
        silent = {name: held for name, held in members.items() if name not in heard}
        if as_json:
            document = {
                "version": 1,
                "workers": told,
                "silent": [{"worker": name, "partitions": n} for name, n in sorted(silent.items())],
            }
            self.say(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
        elif told or silent:
            Console().print(as_table(told, silent))
        else:
            self.say("no worker is there")
        if not told:
            sys.exit(_NOBODY)


def _about(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a worker says; None for what another version says, or a stranger."""
    try:
        return {
            **{name: str(said[name]) for name in ("worker", "version")},
            **{name: int(said[name]) for name in ("pid", "rss_bytes")},
            **{name: float(said[name]) for name in ("up_s", "cpu")},
            "ready": not said["not_ready"],
            "not_ready": str(said["not_ready"]),
            "partitions": {
                str(name): [int(number) for number in about["numbers"]]
                for name, about in said["partitions"].items()
            },
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def as_table(told: list[dict[str, Any]], silent: Mapping[str, int]) -> Table:
    """Return the workers as a table for a terminal."""
    table = Table(
        Column("worker", overflow="fold"),
        "version",
        *(Column(name, justify="right", no_wrap=True) for name in ("up", "CPU", "MiB")),
        Column("reads", overflow="fold"),
        Column("state", overflow="fold"),
    )
    for said in told:
        # What a worker says of itself comes from whoever writes to Redis.
        reads = ", ".join(f"{name} {len(ns)}" for name, ns in said["partitions"].items())
        state = Text("ready", style="green")
        if not said["ready"]:
            state = Text(f"not ready: {printable(said['not_ready'])}", style="bold red")
        table.add_row(
            Text(printable(said["worker"])),
            Text(printable(said["version"])),
            short_age(said["up_s"]),
            f"{said['cpu']:.0%}",
            f"{said['rss_bytes'] / 2**20:,.0f}",
            Text(printable(reads) or "nothing"),
            state,
        )
    for name, held in sorted(silent.items()):
        table.add_row(
            Text(printable(name)), *("",) * 4, f"{held} partitions", Text("silent", style="yellow")
        )
    return table
