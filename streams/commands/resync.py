"""``resync``: compare `sandboxes` with what the hosts report, and repair it after lost events.

Exit codes: 0, nothing is left to do; 1, Redis or Postgres failed, and what was written before
stays; 2, the report cannot be used, and nothing was changed; 3, something differs and was not
(all) written.

With ``--json`` it prints one document; fields may be added to it, none are removed or changed while
``version`` is 1::

    {"version": 1,
     "as_of": RFC3339,                  of the report
     "applied": bool,                   whether changes were written, or were to be
     "waiting_since": RFC3339 or null,  an event from before the report is still on its way
     "counts": {"compared", "agree", "change", "conflict", "unknown", "newer", "under_way",
                "written"},
     "differences": [{"capsule_id": "cl-...",
                      "kind": "change" | "conflict" | "unknown" | "newer" | "under_way",
                      "row_status": text or null,   null: no row, or it has none
                      "reported": text or null,     null: by nobody
                      "to": text or null,           what a change makes of it
                      "changed_at": RFC3339 or null,
                      "written": bool}]}
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, NoReturn

import click
import orjson
import psycopg2
from faust.cli.base import argument, option
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from streams.commands.command import ReconcilerCommand
from streams.errors import DatabaseUnavailableError
from streams.ids import excerpt, format_capsule_id
from streams.resync.host_report import REPORT_MAX_BYTES, HostReport, ReportError, parse_report
from streams.resync.resync import Difference, Result, compare, write
from streams.resync.rules import STATUSES
from streams.unfinished import oldest_unfinished

__all__ = ["resync"]

_BAD_REPORT: Final = 2
_DIFFERS: Final = 3
#: More lines than this nobody reads; ``--json`` has them all.
_SHOWN_MAX: Final = 50


class resync(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Compare sandboxes with a JSON list of what the hosts report; --apply repairs them.

    REPORT is a file, or - for stdin: {"as_of": "2026-03-01T12:00:00Z", "hosts": ["host-..."],
    "capsules": [{"id": "cl-...", "status": "running", "host_ip": "10.0.0.1"}]}. hosts and host_ip
    may be left out; without hosts, the list is complete for all of them.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("report", type=click.File("rb"), metavar="REPORT"),
        option("--apply", is_flag=True, help="Write the changes; without, only say them."),
        option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command; a report that cannot be used is refused before a server is asked."""
        file: BinaryIO = self.kwargs["report"]
        try:
            self.kwargs["report"] = parse_report(file.read(REPORT_MAX_BYTES + 1))
        except OSError as exc:
            self._refuse(f"report: {exc.strerror}")
        except ReportError as exc:
            self._refuse(str(exc))
        super().__call__(*args, **kwargs)

    async def run(self, report: HostReport, apply: bool, as_json: bool) -> None:
        """Compare, write where that is wanted and safe, and say it."""
        waiting_since = await self._waiting_since(report.as_of)
        try:
            result = await asyncio.to_thread(
                self._resync, report, apply=apply and waiting_since is None
            )
        except ReportError as exc:
            self._refuse(str(exc))
        if as_json:
            document = as_document(result, applied=apply, waiting_since=waiting_since)
            self.say(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
        else:
            Console().print(*as_table(result, waiting_since), sep="\n")
        if not result.is_done:
            sys.exit(_DIFFERS)

    async def _waiting_since(self, as_of: datetime) -> datetime | None:
        """Return since when an event from before `as_of` is on its way; None: there is none.

        Its effect depends on the status that it finds, so nothing may be written before it.
        """
        app = self.reconciler_app
        async with self.redis() as client:
            oldest = await oldest_unfinished(
                client, app.redis_layout, app.reconciler.topics, group=app.conf.id
            )
        if oldest is None or oldest.ms > as_of.timestamp() * 1000:
            return None
        return datetime.fromtimestamp(oldest.ms / 1000, UTC)

    def _resync(self, report: HostReport, *, apply: bool) -> Result:
        try:
            connection = psycopg2.connect(
                self.settings.database_url,
                connect_timeout=max(int(self.settings.postgres_connect_timeout_s), 2),
                application_name="capsule-reconciler resync",
            )
        except psycopg2.Error as exc:
            text = str(exc).strip() or type(exc).__name__
            raise DatabaseUnavailableError(text.partition("\n")[0]) from exc
        with closing(connection):
            result = compare(connection, report)
            return write(connection, result) if apply else result

    @staticmethod
    def _refuse(text: str) -> NoReturn:
        print(text, file=sys.stderr)
        sys.exit(_BAD_REPORT)


def as_document(result: Result, *, applied: bool, waiting_since: datetime | None) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "version": 1,
        "as_of": result.as_of,
        "applied": applied and waiting_since is None,
        "waiting_since": waiting_since,
        "counts": result.counts(),
        "differences": [_as_object(found) for found in result.differences],
    }


def _as_object(found: Difference) -> dict[str, Any]:
    return {
        "capsule_id": format_capsule_id(found.capsule_id),
        "kind": found.kind.value,
        "row_status": found.row_status,
        "reported": found.reported,
        "to": found.to or None,
        "changed_at": found.changed_at,
        "written": found.written,
    }


def as_table(result: Result, waiting_since: datetime | None) -> list[Table | Text]:
    """Return the differences as a table for a terminal, with a summary."""
    others = (Column(name, overflow="fold") for name in ("row", "hosts", "becomes"))
    # Whole on the narrowest terminal: the id is what the next question is about.
    capsule = Column("capsule", no_wrap=True, min_width=28)
    kind, written = (Column(name, no_wrap=True) for name in ("kind", "written"))
    table = Table(capsule, kind, *others, written)
    for found in result.differences[:_SHOWN_MAX]:
        table.add_row(
            format_capsule_id(found.capsule_id),
            found.kind.value,
            _shown(found.row_status),
            _shown(found.reported),
            found.to,
            "yes" if found.written else "",
        )
    said = [f"{name}: {count:,}" for name, count in result.counts().items() if count]
    lines = [Text(", ".join(said) or "nothing to compare")]
    if len(result.differences) > _SHOWN_MAX:
        rest = len(result.differences) - _SHOWN_MAX
        lines.insert(0, Text(f"and {rest:,} more; --json has them all"))
    if waiting_since is not None:
        lines.append(
            Text(
                f"nothing is written while an event of {waiting_since.isoformat()}, from before"
                " the report, is on its way: look at `status`, and try again"
            )
        )
    return [*([table] if result.differences else []), *lines]


def _shown(status: str | None) -> Text:
    # The control plane's column holds any text.
    return Text("-" if status is None else status if status in STATUSES else excerpt(status))
