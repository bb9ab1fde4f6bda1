"""``sinks redeliver``: recorded deliveries once more, to one sink alone.

With ``--json`` it prints one document, in ASCII; fields may be added to it, none are removed or
changed while ``version`` is 1::

    {"version": 1, "sink", "dry_run": bool, "sent": how many were sent, "left": how many were not,
     "deliveries": [{"delivery_id", "capsule_id", "type", "status"}, ...], as chosen and in order,
     "left_out": [{"delivery_id", "why"}, ...]}
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import click
import redis.asyncio
from faust.cli.base import argument, option

from streams.commands.dead_letters import as_json_text
from streams.commands.lines import CAPSULE_ID, SINCE
from streams.commands.sink_command import DELIVERY_ID, SINK, SinkCommand
from streams.dead_letters.replay import Resender
from streams.dead_letters.store import LetterStore
from streams.ids import format_capsule_id
from streams.printable import printable
from streams.sinks.deliveries import Status, Wanted
from streams.sinks.redelivery import Choice, Redelivery, WrongDeliveriesError
from streams.sinks.room import BacklogRoom

__all__ = ["Redeliver"]


class Redeliver(SinkCommand):
    """Send recorded deliveries again, to this sink alone and under the same delivery ids.

    Name them, or choose by capsule and time. They come behind what the sink has in its topic, and
    wait where its backlog is full. One that is a dead letter is replayed; one that is still being
    tried is left alone.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("name", type=SINK, metavar="NAME"),
        argument("ids", type=DELIVERY_ID, metavar="[DELIVERY_ID]...", nargs=-1),
        option("--capsule", type=CAPSULE_ID, metavar="ID", help="Those of this capsule: cl-..."),
        option(
            "--since",
            type=SINCE,
            help="Attempted since: RFC 3339, or as long ago as 90m, 24h, 7d.",
        ),
        option(
            "--status",
            type=click.Choice([status.value for status in Status]),
            help="With --capsule or --since: only those that ended so.",
        ),
        option("--dry-run", is_flag=True, help="Only say what would be done."),
        option("--json", "as_json", is_flag=True, help="Print what is done as JSON."),
    ]

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Refuse lines that name no deliveries, or name them twice."""
        filters = [
            f"--{name}" for name in ("capsule", "since", "status") if options[name] is not None
        ]
        if options["ids"] and filters:
            raise click.UsageError(f"give either delivery ids or {filters[0]}")
        if not options["ids"] and not {"--capsule", "--since"} & {*filters}:
            raise click.UsageError("give delivery ids, or --capsule or --since")

    async def run(
        self,
        name: str,
        ids: tuple[str, ...],
        capsule: UUID | None,
        since: datetime | None,
        status: str | None,
        dry_run: bool,
        as_json: bool,
    ) -> None:
        """Look whether the order can be carried out, and carry it out."""
        self.known(name, (sink.name for sink in self.settings.sinks))
        wanted = Wanted(
            None if capsule is None else format_capsule_id(capsule),
            None if status is None else frozenset({Status(status)}),
            None if since is None else since.timestamp() * 1000,
        )
        async with self.redis() as client:
            redelivery = Redelivery(
                client,
                name,
                group=self.settings.app_id,
                layout=self.reconciler_app.redis_layout,
            )
            try:
                choice = await (redelivery.named(ids) if ids else redelivery.meant(wanted))
            except WrongDeliveriesError as exc:
                self.refuse(printable(str(exc)))
            if not as_json:
                self._say_what_is_left_out(choice)
            redelivery.left = len(choice.deliveries)
            try:
                if not dry_run:
                    await self._send(client, redelivery, choice)
            finally:
                # Also of an order that was cut off.
                if as_json:
                    document = _as_document(name, choice, redelivery, dry_run=dry_run)
                    self.say(as_json_text(document))
                elif dry_run:
                    self._say_what_would_be_done(name, choice)
                else:
                    left = f", {redelivery.left:,} left" if redelivery.left else ""
                    self.say(f"sent {redelivery.sent:,} deliveries to {name} again{left}")

    async def _send(
        self, client: redis.asyncio.Redis, redelivery: Redelivery, choice: Choice
    ) -> None:
        room = BacklogRoom(
            client,
            self.settings.sinks,
            group=self.settings.app_id,
            layout=self.reconciler_app.redis_layout,
        )
        if all(delivery.status is not Status.DEAD for delivery in choice.deliveries):
            await redelivery.send(choice, room, None, None)
            return
        with LetterStore.opened(self.settings) as store:
            resender = Resender(
                client,
                store,
                source=self.settings.source_stream,
                group=self.settings.app_id,
                layout=self.reconciler_app.redis_layout,
            )
            await redelivery.send(choice, room, store, resender)

    def _say_what_is_left_out(self, choice: Choice) -> None:
        for delivery_id, why in choice.left_out.items():
            self.say(f"left out {printable(delivery_id)}: {why}")

    def _say_what_would_be_done(self, name: str, choice: Choice) -> None:
        for delivery in choice.deliveries:
            about = f"{delivery.type} {delivery.capsule_id} ({delivery.status.value})"
            self.say(f"would send {delivery.delivery_id} again: {printable(about)}")
        self.say(f"would send {len(choice.deliveries):,} deliveries to {name}; nothing is changed")


def _as_document(
    name: str, choice: Choice, redelivery: Redelivery, *, dry_run: bool
) -> dict[str, Any]:
    return {
        "version": 1,
        "sink": name,
        "dry_run": dry_run,
        "sent": redelivery.sent,
        "left": redelivery.left,
        "deliveries": [
            {
                "delivery_id": delivery.delivery_id,
                "capsule_id": delivery.capsule_id,
                "type": delivery.type,
                "status": delivery.status.value,
            }
            for delivery in choice.deliveries
        ],
        "left_out": [
            {"delivery_id": delivery_id, "why": why} for delivery_id, why in choice.left_out.items()
        ],
    }
