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
import structlog

from agents.readings import Readings
from agents.reconciler import Reconciler, among
from streams.dead_letters import DeadLetter
from streams.events import CapsuleEvent, Skip, SkipRule
from streams.outcomes import Dead
from streams.topics import PAYLOAD_FIELD, REPLAY_FIELD, REPLAY_OF, SOURCE_ID
from streams.transport import Entry, NotOwnedError, Record

__all__ = ["Route"]

log = structlog.get_logger(__name__)


class Route:
    """The agent ``route``."""

    name = "route"

    def __init__(self, reconciler: Reconciler, readings: Readings) -> None:
        self._reconciler = reconciler
        self._readings = readings
        self._capsules = reconciler.outlet(self.name, reconciler.topics.capsules)
        self._stage = reconciler.stage(self.name)
        reconciler.app.agent(reconciler.topics.source, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Route batch after batch."""
        async for entries in stream:
            self._stage.receive(entries)
            with self._reconciler.working(entries) as ours:
                if mine := among(entries, ours):
                    await self._route(mine)

    async def _route(self, entries: list[Entry]) -> None:
        routed: list[Entry] = []
        records: list[Record] = []
        dead: list[tuple[Entry, DeadLetter]] = []
        skipped: dict[SkipRule, list[Entry]] = {}
        for entry in entries:
            payload = entry.fields.get(PAYLOAD_FIELD)
            event = self._readings.read(entry.id, payload)
            if isinstance(event, CapsuleEvent):
                routed.append(entry)
                records.append(Record(payload, event.capsule_id.bytes, _headers(entry)))
            elif isinstance(event, Skip):
                skipped.setdefault(event.rule, []).append(entry)
            else:
                why = Dead.of_bad(event)
                dead.append((entry, DeadLetter.of_source(entry, self.name, why)))
        for rule, of_rule in skipped.items():
            self._stage.skip(of_rule, rule)
        try:
            holding = self._reconciler.consumer.holding(entries[0].tp)
            await self._capsules.send(records, holding=holding)
        except NotOwnedError as exc:
            # Its successor has them; what is appended now would come behind newer ones.
            log.warning("not routed", action="not_owned", stage=self.name, error=str(exc))
            return
        self._stage.done(routed)
        await self._stage.dead(dead)


def _headers(entry: Entry) -> dict[str, bytes]:
    headers = {SOURCE_ID: entry.id}
    if (letter := entry.fields.get(REPLAY_FIELD)) is not None:
        headers[REPLAY_OF] = letter
    return headers
