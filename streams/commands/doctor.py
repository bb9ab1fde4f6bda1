"""``doctor``: is everything set up so that the guarantees hold, and if not, what to do?

Exit codes: 0, no check fails; 1, a server could not be asked (the checks of the others are shown);
2, the line cannot be used; 3, a check fails, or with ``--strict`` warns.

With ``--json`` it prints one document; fields may be added to it, none are removed or changed while
``version`` is 1::

    {"version": 1,
     "verdict": the worst of all: "ok" | "warn" | "fail",
     "checks": [{"check", "verdict", "seen", "advice": what to do, or empty}],
     "unanswered": [which server could not be asked, and why]}
"""

from __future__ import annotations

import sys
from typing import Final

import orjson
from faust.cli.base import option
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from config.settings import EMBEDDED, load_settings
from streams.commands.command import ReconcilerCommand
from streams.doctor import Examination, Verdict, examine
from streams.printable import printable

__all__ = ["doctor"]

_SOME_FAIL: Final = 3
_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


class doctor(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Check servers, streams, rights, clocks and sinks, and say what to do about each fault.

    Nothing is written, and no sink is sent anything. Ends with exit code 3 where a check fails.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--strict", is_flag=True, help="End with exit code 3 for a warning as well."),
        option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON."),
    ]

    async def run(self, strict: bool, as_json: bool) -> None:
        """Examine once."""
        given = load_settings()
        urls = {"Redis": given.redis_url, "Postgres": given.database_url}
        embedded = tuple(name for name, url in urls.items() if url == EMBEDDED)
        found = await examine(self.settings, self.redis, embedded=embedded)
        if as_json:
            self.say(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2).decode())
        else:
            Console().print(as_table(found))
        if found.unanswered:
            self.fail("; ".join(map(printable, found.unanswered)))
        bad = (Verdict.FAIL, Verdict.WARN) if strict else (Verdict.FAIL,)
        if found.worst in bad:
            sys.exit(_SOME_FAIL)


def as_table(found: Examination) -> Table:
    """Return the verdicts as a table for a terminal."""
    table = Table(
        Column("check", no_wrap=True), "", Column("seen, and what to do", overflow="fold")
    )
    for name, finding in found.findings.items():
        # Names in Redis and Postgres come from whoever writes there.
        text = Text(printable(finding.seen))
        if finding.advice:
            text.append(f"\n→ {printable(finding.advice)}", style="bold")
        style = _STYLES[finding.verdict]
        table.add_row(name, Text(finding.verdict.value, style=style), text)
    return table
