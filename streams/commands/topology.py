"""``topology``: what flows where, and with ``--live`` how fast, what waits, and for what."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, Final, NoReturn

import click
import orjson
import redis.asyncio
from faust.cli.base import option
from rich.console import Console, Group
from rich.live import Live

from streams.commands.command import ReconcilerCommand
from streams.commands.drawing import as_dot, as_mermaid, as_tree
from streams.commands.flow_order import in_flow_order
from streams.commands.live_table import as_tables
from streams.commands.signals import stop_on_signals
from streams.figures.live import LiveTopology, read_live
from streams.topology import Topology, topology_of

__all__ = ["LookingCommand", "top", "topology"]

_BAD_LINE: Final = 2
_FORMATS: Final = ("tree", "table", "json", "mermaid", "dot")


class LookingCommand(ReconcilerCommand):
    """A command that looks at the whole fleet."""

    abstract = True

    @property
    def picture(self) -> Topology:
        """The app's topology in the order of the flow, without figures."""
        wiring = self.reconciler_app.reconciler.wiring
        return in_flow_order(topology_of(self.reconciler_app, wiring))

    async def look(self, client: redis.asyncio.Redis) -> LiveTopology:
        """Read the figures of this moment."""
        return await read_live(
            client,
            self.picture,
            self.reconciler_app.reconciler.topics,
            self.reconciler_app.redis_layout,
            group=self.app.conf.id,
        )


class topology(LookingCommand):  # noqa: N801 - Faust names the command after the class
    """Show the streams, agents, tables and sinks and what flows between them.

    Without --live no server is asked.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--live", is_flag=True, help="With the figures of this moment, of all workers."),
        option(
            "--format",
            "form",
            type=click.Choice(_FORMATS),
            help="Default: tree, or table with --live.",
        ),
        option("--json", "as_json", is_flag=True, help="The same as --format json."),
    ]

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command; ends the program."""
        form = "json" if self.kwargs["as_json"] else self.kwargs["form"]
        if form == "table" and not self.kwargs["live"]:
            # Faust would end a click.UsageError raised here with 1.
            print("--format table has figures in it: it needs --live", file=sys.stderr)
            sys.exit(_BAD_LINE)
        if self.kwargs["live"]:
            super().__call__(*args, **kwargs)
        self._show(form or "tree", None)
        raise SystemExit(0)

    async def run(self, live: bool, form: str | None, as_json: bool) -> None:
        """Look once."""
        async with self.redis() as client:
            found = await self.look(client)
        self._show("json" if as_json else form or "table", found)

    def _show(self, form: str, live: LiveTopology | None) -> None:
        picture = self.picture
        if form == "json":
            document = live.as_dict() if live else picture.as_dict()
            self.say(
                orjson.dumps(
                    document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
                ).decode()
            )
        elif form == "mermaid":
            self.say(as_mermaid(picture, live))
        elif form == "dot":
            self.say(as_dot(picture, live))
        elif form == "table" and live is not None:
            console = Console()
            console.print(*as_tables(live, width=console.width), sep="\n")
        else:
            Console().print(as_tree(picture, live))


class top(LookingCommand):  # noqa: N801 - Faust names the command after the class
    """Show the live topology, renewed until Ctrl-C."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option(
            "--every-s",
            type=click.FloatRange(0.2, 3600),
            default=1.0,
            help="Seconds between two looks.",
        )
    ]

    async def run(self, every_s: float) -> None:
        """Look again and again; Ctrl-C is the normal end."""
        console = Console()
        with stop_on_signals() as stopped:
            async with self.redis() as client:
                with Live(console=console, screen=True, auto_refresh=False) as screen:
                    while not stopped.is_set():
                        live = await self.look(client)
                        screen.update(Group(*as_tables(live, width=console.width)), refresh=True)
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(stopped.wait(), every_s)
