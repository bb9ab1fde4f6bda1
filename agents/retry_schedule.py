"""What is known of deliveries that failed: how often, since when, and when to try again.

A hash in Redis for each partition of a sink's topic, with a field for each entry that has failed
and is still pending. So attempts are counted, and pauses kept, over restarts and by whoever reads
the partition. A worker reads the hash once in each of its terms over the partition, and removes
what belongs to entries that are gone: they ended, and the worker before the word of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from faust.types import TP

from streams.events import EntryId
from streams.retry import until_done
from streams.transport import Entry, Producer, TransportError, broker_errors
from streams.transport.bundles import stream_id_and_place

if TYPE_CHECKING:
    from agents.reconciler import Reconciler

__all__ = ["PAUSE_MAX_S", "Attempts", "RetrySchedule"]

log = structlog.get_logger(__name__)

_NOTE: Final = resources.files("streams.lua").joinpath("retry_note.lua").read_text("utf-8")

#: No pause is longer, whatever a receiver asks for or a clock says that is wrong.
PAUSE_MAX_S: Final = 3600.0


@dataclass(slots=True)
class Attempts:
    """The attempts at one delivery so far; times in seconds since the epoch."""

    count: int = 0
    first_at_s: float = 0.0
    due_at_s: float = 0.0
    error: str = ""

    def failed(self, error: str, *, pause_s: float, now_s: float) -> None:
        """Note one more attempt, and the pause behind it."""
        self.first_at_s = self.first_at_s or now_s
        self.due_at_s = now_s + pause_s
        self.error = error

    def wait_s(self) -> float:
        """How long to wait before the next attempt."""
        return min(max(self.due_at_s - time.time(), 0.0), PAUSE_MAX_S)

    def to_bytes(self) -> bytes:
        """Return it as the hash keeps it."""
        return orjson.dumps([self.count, self.first_at_s, self.due_at_s, self.error])

    @classmethod
    def from_bytes(cls, raw: bytes) -> Attempts:
        """Read what `to_bytes` wrote; anything else is as if there had been no attempt."""
        try:
            count, first_at_s, due_at_s, error = orjson.loads(raw)
            return cls(int(count), float(first_at_s), float(due_at_s), str(error))
        except (ValueError, TypeError):
            return cls()


class RetrySchedule:
    """The attempts at the deliveries of one sink's topic.

    Arguments:
        stage: whose they are, for the log.
    """

    def __init__(self, reconciler: Reconciler, stage: str) -> None:
        self._reconciler = reconciler
        self._stage = stage
        #: By partition: the term that was read last, and what was found and not asked for yet.
        self._terms: dict[TP, tuple[int, dict[bytes, Attempts]]] = {}

    async def recall(self, entries: Sequence[Entry]) -> list[Attempts]:
        """Return the attempts at each of `entries`; those of a partition are of one term."""
        found: list[Attempts] = []
        for entry in entries:
            term = self._terms.get(entry.tp)
            if term is None or term[0] != entry.epoch:
                # The first that comes of a term is the oldest of its partition.
                term = self._terms[entry.tp] = (entry.epoch, await self._insist_on(entry))
            found.append(term[1].pop(entry.id, Attempts()))
        return found

    async def _insist_on(self, oldest: Entry) -> dict[bytes, Attempts]:
        return await until_done(lambda: self._read(oldest), stage=self._stage)

    async def _read(self, oldest: Entry) -> dict[bytes, Attempts]:
        """Read a partition's hash; `oldest` is its oldest entry that is not done with."""
        client, key = await self._client(), self._key(oldest.tp)
        with broker_errors("HGETALL"):
            found: dict[bytes, bytes] = await client.hgetall(key)
        gone = [i for i in found if _place(i) < _place(oldest.id)]
        if gone:
            with broker_errors("HDEL"):
                await client.hdel(key, *gone)
        return {
            entry_id: Attempts.from_bytes(raw)
            for entry_id, raw in found.items()
            if entry_id not in gone
        }

    async def note(self, entry: Entry, attempts: Attempts) -> None:
        """Write down the attempts at `entry`; without Redis, this worker alone knows of them."""
        holding = self._reconciler.consumer.holding(entry.tp)
        try:
            client = await self._client()
            with broker_errors("retry_note"):
                await client.eval(
                    _NOTE,
                    2,
                    *(holding.owners_key, self._key(entry.tp)),
                    *(holding.partition, holding.token, entry.id, attempts.to_bytes()),
                )
        except TransportError as exc:
            log.warning("attempt not noted", action="retry_not_noted", error=str(exc))

    async def forget(self, entry: Entry) -> None:
        """Remove what was noted of `entry`, which is done with."""

        async def remove() -> None:
            if self._reconciler.consumer.ledger.holds(entry):  # else its next owner does
                client = await self._client()
                with broker_errors("HDEL"):
                    await client.hdel(self._key(entry.tp), entry.id)

        await until_done(remove, stage=self._stage)

    async def _client(self) -> Any:
        producer = await self._reconciler.app.maybe_start_producer()
        assert isinstance(producer, Producer)  # noqa: S101 - the app's broker is Redis
        return producer.client

    def _key(self, tp: TP) -> bytes:
        return self._reconciler.layout.name(f"retries:{tp.topic}:{tp.partition}")


def _place(entry_id: bytes) -> tuple[EntryId, int]:
    """Return where a message is in its stream, and in the entry that it came in."""
    stream_id, place = stream_id_and_place(entry_id)
    return EntryId.parse(stream_id), int(place or 0)
