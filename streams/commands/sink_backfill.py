"""``sinks backfill``: what a new sink missed, from an entry of the producer's stream on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from faust.cli.base import argument, option

from streams.commands.lines import ENTRY_ID
from streams.commands.sink_command import SINK, SinkCommand
from streams.dead_letters.store import LetterStore
from streams.sinks.backfill import Filled, SinkBackfill
from streams.sinks.missed import MissedEvents

__all__ = ["Backfill"]


class Backfill(SinkCommand):
    """Have a sink that is added begin at an entry of the producer's stream, and not from now on.

    All workers must be stopped. Add the sink to the settings, run this, and start the workers. The
    sink gets the events that have taken effect since that entry, as far as the stream still has
    them, and then what the workers send, each capsule's in order.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("name", type=SINK, metavar="NAME"),
        option(
            "--from",
            "start",
            type=ENTRY_ID,
            required=True,
            metavar="ID",
            help="The first entry of the producer's stream; 0 is all there is.",
        ),
        option("--to", "end", type=ENTRY_ID, metavar="ID", help="The last one; all, if absent."),
        option("--dry-run", is_flag=True, help="Only say what would be done."),
    ]

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Refuse an end that is before the start."""
        start, end = options["start"], options["end"]
        if end is not None and _number(end, 2**64) < _number(start, 0):
            raise click.UsageError("--to is before --from")

    async def run(self, name: str, start: str, end: str | None, dry_run: bool) -> None:
        """Look whether it can be done, and do it."""
        self.known(name, (sink.name for sink in self.settings.sinks))
        settings, layout = self.settings, self.reconciler_app.redis_layout
        with LetterStore.opened(settings) as store:
            async with self.redis() as client:
                missed = MissedEvents(
                    client,
                    source=settings.source_stream,
                    group=settings.app_id,
                    layout=layout,
                    died=store.died_in_the_pipeline,
                    payload_max_bytes=settings.payload_max_bytes,
                )
                backfill = SinkBackfill(
                    client,
                    name,
                    missed,
                    group=settings.app_id,
                    layout=layout,
                    silence_s=settings.lease_s + settings.read_block_ms / 1000,
                )
                filled = await backfill.run(start, end or "+", apply=not dry_run)
                oldest = await missed.oldest()
        self._tell(name, filled, dry_run=dry_run)
        if oldest and _number(start, 0) < _number(oldest, 0):
            self.say(f"the stream begins at {oldest}: what was before is trimmed")

    def _tell(self, name: str, filled: Filled, *, dry_run: bool) -> None:
        between = f", {filled.first_id} to {filled.last_id}" if filled.events else ""
        what = f"{filled.events:,} events of {len(filled.capsules):,} capsules{between}"
        if dry_run:
            self.say(f"would give {name} {what}; nothing is changed")
        else:
            self.say(f"gave {name} {what}; start the workers")


def _number(entry_id: str, seq: int) -> tuple[int, int]:
    ms, _, given = entry_id.partition("-")
    return int(ms), int(given) if given else seq
