"""Which chores of housekeeping there are, and what each is made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis.asyncio
from faust.types import TP

from streams.broker_url import broker_url
from streams.events import EntryId
from streams.housekeeping.housekeeping import Housekeeping
from streams.housekeeping.old_gaps import OldGaps
from streams.housekeeping.old_letters import OldLetters
from streams.housekeeping.old_watermarks import OldWatermarks
from streams.housekeeping.retired_sinks import RetiredSinks
from streams.journal import PostgresJournal
from streams.topics import key_prefix
from streams.transport.connection import connect
from streams.unfinished import oldest_unfinished

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["keep_house"]


def keep_house(app: ReconcilerApp) -> None:
    """Add the tasks of the housekeeping of `app`'s fleet."""
    settings, reconciler = app.settings, app.reconciler
    source = TP(settings.source_stream, 0)

    def client_of_our_own() -> redis.asyncio.Redis:
        return connect(
            broker_url(settings),
            timeout_s=settings.redis_timeout_s,
            name=f"{settings.app_id}-housekeeping",
        )

    async def oldest() -> EntryId | None:
        async with client_of_our_own() as client:
            return await oldest_unfinished(
                client, app.redis_layout, reconciler.topics, group=settings.app_id
            )

    retired_sinks = RetiredSinks(
        client_of_our_own,
        configured=[sink.name for sink in settings.sinks],
        group=settings.app_id,
        layout=app.redis_layout,
        silence_s=settings.lease_s + settings.read_block_ms / 1000,
    )
    housekeeping = Housekeeping(
        [
            OldWatermarks(
                reconciler.postgres,
                keep_days=settings.watermark_keep_days,
                oldest_unfinished=oldest,
            ),
            OldLetters(
                reconciler.postgres,
                keep_days=settings.dead_letter_keep_days,
                max_letters=settings.dead_letters_max,
                journal=PostgresJournal(
                    reconciler.postgres,
                    app_id=settings.app_id,
                    worker=lambda: app.worker_name,
                ),
                source=settings.source_stream,
                prefix=key_prefix(settings),
            ),
            OldGaps(reconciler.postgres),
            retired_sinks,
        ],
        interval_s=settings.housekeeping_interval_s,
        is_ours=lambda: source in reconciler.consumer.assignment(),
    )
    app.task(retired_sinks.add_anew)
    app.task(housekeeping.keep)
