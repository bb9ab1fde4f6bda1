"""``gaps``: show the entries that were lost, and close what was dealt with.

Exit codes: 0, done; 1, Postgres failed, or there is no such open gap; 2, the arguments cannot be
used, and nothing was changed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final, NoReturn

import click
import orjson
from faust.cli.base import option
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from streams.commands.command import ReconcilerCommand
from streams.gaps import Gap, close_gap, read_gaps

__all__ = ["gaps"]

_BAD_ARGUMENTS: Final = 2
_NOTE_MAX: Final = 1_000
_ID_MAX: Final = 2**63 - 1


class gaps(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Show which entries were lost, where, how and how many; --close ID notes what was done.

    After a gap, `resync` compares sandboxes with what the hosts report.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--json", "as_json", is_flag=True, help="Print them as JSON, with all ids."),
        option("--all", "closed", is_flag=True, help="Show those as well that were closed."),
        option("--close", "gap_id", type=click.IntRange(1, _ID_MAX), help="Close this one."),
        option("--note", help="What was done about it; needed to close."),
    ]

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command; arguments that make no sense are refused before a server is asked."""
        given: dict[str, Any] = self.kwargs
        note = given.get("note")
        if (given.get("gap_id") is None) != (note is None):
            _refuse("--close and --note go together")
        if given.get("gap_id") is not None and (given.get("as_json") or given.get("closed")):
            _refuse("--close shows nothing: neither --json nor --all goes with it")
        if note is not None and not (
            note.strip() and note.isprintable() and len(note) <= _NOTE_MAX
        ):
            _refuse(f"--note: one line of 1 to {_NOTE_MAX} characters")
        super().__call__(*args, **kwargs)

    async def run(self, as_json: bool, closed: bool, gap_id: int | None, note: str | None) -> None:
        """Show or close."""
        url, app_id = self.settings.database_url, self.settings.app_id
        if gap_id is not None:
            done = await asyncio.to_thread(
                close_gap, url, app_id=app_id, gap_id=gap_id, note=note or ""
            )
            if not done:
                self.fail(f"gap {gap_id}: there is no such open gap")
            self.say(f"closed gap {gap_id}")
            return
        found = await asyncio.to_thread(read_gaps, url, app_id=app_id, closed=closed)
        if as_json:
            listed = [gap.as_dict() for gap in found]
            self.say(orjson.dumps(listed, option=orjson.OPT_INDENT_2).decode())
        elif found:
            Console().print(as_table(found))
        else:
            self.say("no gaps" if closed else "no open gaps")


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(_BAD_ARGUMENTS)


def as_table(found: list[Gap]) -> Table:
    """Return `found` as a table for a terminal."""
    table = Table(
        Column("gap", justify="right"),
        "kind",
        "stream",
        Column("entries", justify="right"),
        Column("after", overflow="fold"),
        Column("before", overflow="fold"),
        "noticed",
        "closed",
    )
    for gap in found:
        closed = f"{gap.closed_at:%Y-%m-%d %H:%M} {gap.note}" if gap.closed_at else ""
        cells = (
            str(gap.id),
            gap.kind,
            gap.stream,
            "?" if gap.entries is None else f"{gap.entries:,}",
            gap.after_id or "?",
            gap.before_id or "-",
            f"{gap.noticed_at:%Y-%m-%d %H:%M:%S}",
            closed,
        )
        table.add_row(*(Text(cell) for cell in cells))
    known = [gap.entries for gap in found if gap.entries is not None]
    table.caption = (
        f"{sum(known):,} entries in {len(known)} gaps whose size is known, of {len(found)}"
    )
    return table
