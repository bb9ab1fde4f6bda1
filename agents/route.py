"""Route: from the producer's stream into ours, as fast as it can.

The producer trims its stream whether or not anybody has read it, so nothing downstream may
hold this stage up but Redis itself. An event goes on under its capsule's key with the id of its
source entry; what the rules skip is done with here; what cannot be used becomes a dead letter.

Routing an entry twice, after a crash between sending and acknowledging, is harmless: its
effects are marked with the source id.
"""

from __future__ import annotations

from typing import Any

import faust

from agents.dead_letters import DeadLetter
from agents.reconciler import Reconciler
from streams.events import Bad, EntryId, Skip, read_event
from streams.topics import PAYLOAD_FIELD, SOURCE_ID
from streams.transport import Entry, Record

__all__ = ["Route"]


class Route:
    """The agent ``route``."""

    name = "route"

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._payload_max_bytes = reconciler.settings.payload_max_bytes
        self._capsules = reconciler.outlet(self.name, reconciler.topics.capsules)
        self._dead_letters = reconciler.dead_letters(self.name)
        reconciler.app.agent(reconciler.topics.source, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Route batch after batch."""
        async for entries in stream:
            with self._reconciler.working(entries) as ours:
                await self._route([entry for entry in entries if entry in ours])

    async def _route(self, entries: list[Entry]) -> None:
        routed: list[Record] = []
        dead: list[DeadLetter] = []
        skipped = 0
        for entry in entries:
            payload = entry.fields.get(PAYLOAD_FIELD)
            source_id = EntryId.parse(entry.id)
            event = read_event(source_id, payload, payload_max_bytes=self._payload_max_bytes)
            if isinstance(event, Skip):
                skipped += 1
            elif isinstance(event, Bad):
                dead.append(DeadLetter(str(source_id), event, entry.fields))
            else:
                routed.append(Record(payload, event.capsule_id.bytes, {SOURCE_ID: entry.id}))
        await self._capsules.send(routed)
        await self._dead_letters.keep(dead)
        self._reconciler.settle(entries)
        self._reconciler.count(self.name, "done", len(routed))
        self._reconciler.count(self.name, "skip", skipped)
        self._reconciler.count(self.name, "dead", len(dead))
