"""``sinks deliveries``: what became of the last deliveries.

With ``--json`` it prints one document, in ASCII; fields may be added to it, none are removed or
changed while ``version`` is 1::

    {"version": 1, "deliveries": [{"sink", "delivery_id", "capsule_id", "type", "status",
     "attempts", "took_ms", "error": "" where there is none, "at": RFC3339, "at_ms",
     "entry_id"}, ...]}
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from faust.cli.base import argument, option

from streams.commands.dead_letters import as_json_text
from streams.commands.lines import CAPSULE_ID, SINCE
from streams.commands.sink_command import SINK, SinkCommand
from streams.ids import format_capsule_id
from streams.printable import printable
from streams.recorded_topics import HOOKS_PREFIX, read_recorded_topics
from streams.short import short_age
from streams.sinks.deliveries import Delivery, DeliveryRecord, Status, Wanted
from streams.trail import age_of

__all__ = ["Deliveries", "as_document", "as_lines"]


class Deliveries(SinkCommand):
    """Show the last deliveries to a sink, or to all of them, the newest first.

    Of each the last attempt is told. The record is written about once a second, and holds the
    newest CAPSULES_DELIVERIES_KEPT of each sink.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("name", type=SINK, metavar="[NAME]", required=False),
        option("--capsule", type=CAPSULE_ID, metavar="ID", help="Only of this capsule: cl-..."),
        option(
            "--status",
            type=click.Choice([status.value for status in Status]),
            help="Only those that ended so.",
        ),
        option(
            "--since",
            type=SINCE,
            help="Attempted since: RFC 3339, or as long ago as 90m, 24h, 7d.",
        ),
        option("--limit", type=click.IntRange(1, 100_000), default=50, help="So many at most."),
        option("--json", "as_json", is_flag=True, help="Print them as JSON."),
    ]

    async def run(
        self,
        name: str | None,
        capsule: UUID | None,
        status: str | None,
        since: datetime | None,
        limit: int,
        as_json: bool,
    ) -> None:
        """Read them once."""
        wanted = Wanted(
            None if capsule is None else format_capsule_id(capsule),
            None if status is None else frozenset({Status(status)}),
            None if since is None else since.timestamp() * 1000,
        )
        async with self.redis() as client:
            topics = await read_recorded_topics(client, self.settings)
            names = [topic.removeprefix(HOOKS_PREFIX) for topic in topics.hooks]
            if name is not None:
                self.known(name, names)
                names = [name]
            record = DeliveryRecord(client, topics.layout)
            of_each = await asyncio.gather(
                *(record.newest(sink, wanted, limit=limit) for sink in names)
            )
        found = [
            (sink, delivery)
            for sink, deliveries in zip(names, of_each, strict=True)
            for delivery in deliveries
        ]
        found.sort(key=lambda both: both[1].at_ms, reverse=True)
        del found[limit:]
        if as_json:
            self.say(as_json_text({"version": 1, "deliveries": as_document(found)}))
        elif found:
            for line in as_lines(found):
                self.say(line)
        else:
            self.say("no deliveries are recorded, of those that are asked for")


def as_document(found: Iterable[tuple[str, Delivery]]) -> list[dict[str, Any]]:
    """Return deliveries as ``--json`` shows them."""
    return [
        {
            "sink": sink,
            "delivery_id": delivery.delivery_id,
            "capsule_id": delivery.capsule_id,
            "type": delivery.type,
            "status": delivery.status.value,
            "attempts": delivery.attempts,
            "took_ms": delivery.took_ms,
            "error": delivery.error,
            "at": delivery.at.isoformat(timespec="milliseconds"),
            "at_ms": delivery.at_ms,
            "entry_id": delivery.entry_id,
        }
        for sink, delivery in found
    ]


def as_lines(found: Iterable[tuple[str, Delivery]]) -> Iterator[str]:
    """Give deliveries as lines that do nothing to a terminal, under one that says what is what."""
    words = ("last attempt (UTC)", "sink", "delivery", "capsule", "type", "status", "tried", "took")
    yield _as_line(*words, "after", "error")
    for sink, delivery in found:
        age_s = age_of(delivery.delivery_id, delivery.at_ms / 1000)
        yield _as_line(
            f"{delivery.at:%Y-%m-%d %H:%M:%S}",
            sink,
            delivery.delivery_id,
            delivery.capsule_id,
            delivery.type,
            delivery.status.value,
            str(delivery.attempts),
            f"{delivery.took_ms:,.0f} ms",
            "" if age_s is None else short_age(max(age_s, 0.0)),
            delivery.error,
        )


def _as_line(*words: str) -> str:
    # All of it may have been written by strangers.
    widths = (19, 12, 17, 28, 9, 9, 5, 9, 6, 0)
    return "  ".join(f"{printable(w):{n}}" for w, n in zip(words, widths, strict=True)).rstrip()
