"""``lag``: what is left to do, by stream and partition, and whose it is.

Exit codes: 0; 1, Redis failed; 2, the line cannot be used; 3, more than ``--max`` is left.

With ``--json`` it prints one document; fields may be added to it, none are removed or changed while
``version`` is 1::

    {"version": 1,
     "at_s": seconds since the epoch, by Redis' clock,
     "total": FIGURES,
     "streams": [FIGURES and {"stream": name,
                              "partitions": [FIGURES and {"partition": number,
                                                          "owner": worker's name or null,
                                                          "owner_silent": bool}]}]}
    FIGURES = {"entries": unread and pending, "unread", "pending", "oldest_age_s": float or null}
"""

from __future__ import annotations

import sys
from typing import Final

import click
import orjson
from faust.cli.base import option
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from streams.commands.command import ReconcilerCommand
from streams.figures.backlog import Backlog
from streams.figures.lag import Lag, PartitionLag, read_lag
from streams.printable import printable
from streams.short import short_age

__all__ = ["lag"]

_TOO_MUCH: Final = 3


class lag(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Show what is unread and pending in each stream, how old it is, and who reads it.

    No worker is asked, so it works while they are down. With --max it ends with exit code 3 where
    more is left, for scripts.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option(
            "--max",
            "max_entries",
            type=click.IntRange(min=0),
            metavar="N",
            help="End with exit code 3 if more than N entries are left to do in all.",
        ),
        option("--all", "every", is_flag=True, help="Show each partition, also where all is well."),
        option("--json", "as_json", is_flag=True, help="Print the figures as JSON."),
    ]

    async def run(self, max_entries: int | None, every: bool, as_json: bool) -> None:
        """Read the figures once."""
        async with self.redis() as client:
            found = await read_lag(client, self.settings)
        if as_json:
            self.say(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2).decode())
        else:
            Console().print(as_table(found, every=every))
        if max_entries is not None and found.total.entries > max_entries:
            sys.exit(_TOO_MUCH)


def as_table(found: Lag, *, every: bool) -> Table:
    """Return `found` as a table; without `every` only partitions with something to say."""
    numbers = (Column(name, justify="right") for name in ("unread", "pending", "oldest"))
    table = Table(Column("stream", overflow="fold"), *numbers, Column("read by", overflow="fold"))
    for topic, parts in found.by_topic().items():
        whole = sum((part.backlog for part in parts), Backlog())
        table.add_row(printable(topic), *_cells(whole), _readers(parts), style="bold")
        for part in parts if len(parts) > 1 else ():
            if every or part.backlog.entries or part.owner is None or part.is_owner_silent:
                table.add_row(f"  partition {part.partition}", *_cells(part.backlog), _owner(part))
    table.add_section()
    table.add_row("all", *_cells(found.total), "", style="bold")
    return table


def _cells(backlog: Backlog) -> tuple[str, str, str]:
    return f"{backlog.unread:,}", f"{backlog.pending:,}", short_age(backlog.oldest_age_s)


def _owner(part: PartitionLag) -> Text:
    if part.owner is None:
        return Text("nobody", style="red")
    # A worker's name comes from whoever writes to Redis.
    name = printable(part.owner)
    return Text(f"{name} (silent)", style="yellow") if part.is_owner_silent else Text(name)


def _readers(parts: tuple[PartitionLag, ...]) -> Text:
    if len(parts) == 1:
        return _owner(parts[0])
    names = {part.owner for part in parts if part.owner is not None}
    if not names:
        return Text("nobody", style="red")
    missing = sum(part.owner is None for part in parts)
    said = f"{len(names)} workers" if len(names) > 1 else printable(names.pop())
    return Text(f"{said}; {missing} by nobody", style="red") if missing else Text(said)
