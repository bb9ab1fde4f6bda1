"""``status``: how far the work is, in Redis and in Postgres."""

from __future__ import annotations

import orjson
from faust.cli.base import option
from rich.console import Console
from rich.table import Table

from streams.commands.command import ReconcilerCommand
from streams.figures.status import Status, read_status

__all__ = ["status"]


class status(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Show sandboxes by status, audit rows, the backlog of each stage, and dead letters."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
    ]

    async def run(self, as_json: bool) -> None:
        """Read the figures once."""
        async with self.redis() as client:
            figures = await read_status(
                client,
                self.settings.database_url,
                self.reconciler_app.reconciler.topics,
                self.reconciler_app.redis_layout,
                group=self.app.conf.id,
            )
        if as_json:
            self.say(orjson.dumps(figures.as_dict(), option=orjson.OPT_INDENT_2).decode())
        else:
            Console().print(*as_tables(figures), sep="\n")


def as_tables(figures: Status) -> list[Table]:
    """Return `figures` as tables for a terminal."""
    rows = Table("status", "sandboxes", title="Postgres", title_justify="left")
    for name, count in figures.sandboxes.items():
        rows.add_row(name, f"{count:,}")
    rows.add_section()
    rows.add_row("audit rows", f"{figures.audit_rows:,}")
    stages = Table("stream", "waiting", "in hand", title="Redis", title_justify="left")
    for stage in figures.stages:
        stages.add_row(stage.stream, f"{stage.waiting:,}", f"{stage.pending:,}")
    stages.add_section()
    stages.add_row("dead letters", f"{figures.dead_letters:,}", "")
    shares = (f"{name} ({count})" for name, count in sorted(figures.workers.items()))
    stages.caption = f"read by {', '.join(shares) or 'nobody'}"
    return [rows, stages]
