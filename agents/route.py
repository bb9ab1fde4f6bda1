"""Route: from the producer's stream into ours, as fast as it can.

The producer trims its stream whether or not anybody has read it, so nothing downstream may
hold this stage up but Redis itself. An event goes on under its capsule's key with the id of its
source entry; what the rules skip is done with here; what cannot be used becomes a dead letter.

Routing an entry twice, after a crash between sending and acknowledging, is harmless: its
effects are marked with the source id.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import faust
import structlog

from agents.readings import Readings
from agents.reconciler import Reconciler, among
from streams.dead_letters.record import DeadLetter
from streams.events import CapsuleEvent, Skip, SkipRule
from streams.outcomes import Dead
from streams.topics import PAYLOAD_FIELD, REPLAY_FIELD, REPLAY_OF, SOURCE_ID
from streams.transport import Entry, NotOwnedError, Record

__all__ = ["Route"]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Judged:
    """A batch of entries and what follows from each."""

    entries: list[Entry]
    routed: list[Entry] = field(default_factory=list)
    #: Of what is routed, in the same order; likewise the records.
    events: list[CapsuleEvent] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    dead: list[tuple[Entry, DeadLetter]] = field(default_factory=list)
    skipped: dict[SkipRule, list[Entry]] = field(default_factory=dict)


class Route:
    """The agent ``route``.

    While one batch is on its way to Redis the next one is read; it is sent when that has arrived.
    """

    name = "route"

    def __init__(self, reconciler: Reconciler, readings: Readings) -> None:
        self._reconciler = reconciler
        self._readings = readings
        self._capsules = reconciler.outlet(self.name, reconciler.topics.capsules)
        self._stage = reconciler.stage(self.name)
        reconciler.app.agent(reconciler.topics.source, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Route batch after batch."""
        async with asyncio.TaskGroup() as group:
            sending: asyncio.Task[None] | None = None
            try:
                async for entries in stream:
                    self._stage.receive(entries)
                    judged = self._judge(entries)
                    if sending is not None:
                        await sending
                    sending = group.create_task(self._route(judged), name=self.name)
            finally:
                if sending is not None:
                    sending.cancel()

    def _judge(self, entries: list[Entry]) -> _Judged:
        judged = _Judged(entries)
        for entry in entries:
            payload = entry.fields.get(PAYLOAD_FIELD)
            event = self._readings.read(entry.id, payload)
            if isinstance(event, CapsuleEvent):
                judged.routed.append(entry)
                judged.events.append(event)
                judged.records.append(Record(payload, event.capsule_key, _headers(entry)))
            elif isinstance(event, Skip):
                judged.skipped.setdefault(event.rule, []).append(entry)
            else:
                why = Dead.of_bad(event)
                judged.dead.append((entry, DeadLetter.of_source(entry, self.name, why)))
        return judged

    async def _route(self, judged: _Judged) -> None:
        try:
            with self._reconciler.working(judged.entries) as ours:
                mine = among(judged.entries, ours)
                if mine is not judged.entries:
                    judged = self._judge(mine)
                if mine:
                    await self._send(judged)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The group would take it for an end like any other, and go on past these entries.
            raise RuntimeError("cancelled by nobody") from None

    async def _send(self, judged: _Judged) -> None:
        for rule, of_rule in judged.skipped.items():
            self._stage.skip(of_rule, rule)
        self._stage.trace.source(judged.routed, judged.events)
        self._stage.trace.source([entry for entry, _ in judged.dead], [None] * len(judged.dead))
        self._stage.trace.carry(judged.routed, judged.records)
        try:
            holding = self._reconciler.consumer.holding(judged.entries[0].tp)
            await self._capsules.send(judged.records, holding=holding)
        except NotOwnedError as exc:
            # Its successor has them; what is appended now would come behind newer ones.
            log.warning("not routed", action="not_owned", stage=self.name, error=str(exc))
            self._stage.trace.end(judged.entries, "left")
            return
        self._stage.done(judged.routed)
        await self._stage.dead(judged.dead)


def _headers(entry: Entry) -> dict[str, bytes]:
    headers = {SOURCE_ID: entry.id}
    if (letter := entry.fields.get(REPLAY_FIELD)) is not None:
        headers[REPLAY_OF] = letter
    return headers
