"""The end of a sink: nothing of it is left in Redis, and nothing that it was owed is lost silently.

It must be in no worker any more. What it was not given yet becomes a dead letter, entry by entry
in order: the letter is appended and the entry removed in one transaction, so that a run that is cut
off is gone on with by the next. Then all keys go in one step, which is refused if a worker that has
the sink has come meanwhile.

A worker that was frozen while it had the sink may wake up later and send to it, or record what it
delivered. So it is noted that the sink was retired (:mod:`streams.sinks.retired`), and housekeeping
removes what has come back when that worker is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any, Final

import orjson
import redis.asyncio
import structlog
from faust.types import TP
from redis.exceptions import WatchError

from streams.dead_letters.record import DeadLetter
from streams.errors import ReconcilerError
from streams.outcomes import Dead, Reason
from streams.presence import living_workers
from streams.recorded_topics import DEAD_LETTERS, HOOKS_PREFIX
from streams.sinks.keys import STREAMS_MAX, other_keys, streams_of
from streams.sinks.retired import RETIRED
from streams.transport import Entry, StreamLayout, broker_errors, read_members
from streams.transport.bundles import stream_id_of
from streams.transport.entry import encode_fields
from streams.undone import Fields, undone

__all__ = ["Remains", "Retirement", "RetirementError"]

log = structlog.get_logger(__name__)

_SCRIPT: Final = resources.files("streams.lua").joinpath("sink_retire.lua").read_text("utf-8")
_PORTION: Final = 200
_WHY: Final = "the sink was retired before it was delivered"


class RetirementError(ReconcilerError):
    """The sink cannot be retired as things are; what is done is said."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What there is of a sink in Redis."""

    #: Its topic is recorded, or it is paused.
    is_known: bool
    #: Keys that exist.
    keys: int
    #: Entries that are not delivered.
    undelivered: int

    @property
    def is_anything(self) -> bool:
        """Whether there is anything."""
        return self.is_known or self.keys > 0


class Retirement:
    """One sink's end.

    Arguments:
        group: the consumer group of the app.
        layout: where the app's keys are.
        silence_s: after how long without a beat a worker is dead.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        sink: str,
        *,
        group: str,
        layout: StreamLayout,
        silence_s: float,
    ) -> None:
        self._client = client
        self._sink = sink
        self._group = group
        self._layout = layout
        self._silence_s = silence_s
        self._topic = f"{HOOKS_PREFIX}{sink}"
        self._streams = streams_of(layout, sink)
        self._others = other_keys(layout, sink)

    async def look(self) -> Remains:
        """Return what there is; raises TransportError."""
        topics, paused = (self._layout.name(n).decode() for n in ("topics", "paused-sinks"))
        with broker_errors("EXISTS"):
            is_known = bool(
                await self._client.hexists(topics, self._topic)
                or await self._client.hexists(paused, self._sink)
            )
            keys = int(await self._client.exists(*self._streams, *self._others))
        undelivered = 0
        for n in range(STREAMS_MAX) if keys else ():
            async for page in self._undone(n):
                undelivered += len(page)
        return Remains(is_known, keys, undelivered)

    async def check_nobody_has_it(self) -> None:
        """See that no worker has the sink.

        Raises:
            RetirementError: one has.
            TransportError: Redis is unreachable or refuses.
        """
        workers = await living_workers(
            self._client, self._layout, silence_s=self._silence_s, concerned=self._may_have_it
        )
        if workers:
            raise RetirementError(
                f"a worker still has {self._sink}: restart it with settings that do not, or stop it"
                f" ({', '.join(workers)})"
            )

    def _may_have_it(self, readable: Iterable[str]) -> bool:
        partitions = set(readable)
        # One that has just started cannot read anything yet.
        return not partitions or any(p.startswith(f"{self._topic}:") for p in partitions)

    async def drop(self, *, only_if_retired: bool = False) -> int:
        """Make what is not delivered dead letters, and return how many.

        Arguments:
            only_if_retired: not if the sink has been added anew.

        Raises:
            RetirementError: it has been.
            TransportError: not all were; run it again.
        """
        dropped = 0
        for n, stream in enumerate(self._streams):
            async for page in self._undone(n):
                for portion in _portions(page):
                    await self._drop(n, stream, portion, only_if_retired=only_if_retired)
                dropped += len(page)
        return dropped

    def _undone(self, number: int) -> AsyncIterator[list[tuple[bytes, Fields]]]:
        parts_key = self._layout.parts_key(TP(self._topic, number))
        return undone(self._client, self._streams[number], self._group, parts_key=parts_key)

    async def _drop(
        self,
        number: int,
        stream: bytes,
        entries: list[tuple[bytes, Fields]],
        *,
        only_if_retired: bool,
    ) -> None:
        ids = [entry_id for entry_id, _ in entries]
        retries = self._layout.name(f"retries:{self._topic}:{number}").decode()
        letters_key = self._layout.name(f"{DEAD_LETTERS}:0")
        with broker_errors("XADD"):
            tried: Any = await self._client.hmget(retries, ids)
            async with self._client.pipeline(transaction=True) as transaction:
                if only_if_retired:
                    await self._watch_whether_retired(transaction)
                letters = []
                for (entry_id, fields), raw in zip(entries, tried, strict=True):
                    entry = Entry(TP(self._topic, number), entry_id, fields, 0)
                    letter = DeadLetter.of_delivery(
                        entry, f"hook.{self._sink}", self._sink, _why(raw)
                    )
                    record = letter.record()
                    letter_fields = encode_fields(record.key, record.value, record.headers)
                    transaction.execute_command("XADD", letters_key, "*", *letter_fields)
                    letters.append(letter)
                stream_ids = list(dict.fromkeys(map(stream_id_of, ids)))
                transaction.xack(stream, self._group, *stream_ids)
                transaction.xdel(stream, *stream_ids)
                try:
                    await transaction.execute()
                except WatchError:
                    raise RetirementError(f"{self._sink} may have been added anew") from None
        for letter in letters:
            log.warning(
                "dead letter",
                action="dead_letter",
                stage=letter.stage,
                source_id=letter.source_id,
                reason=letter.reason,
                error=letter.error,
                attempts=letter.attempts,
            )

    async def _watch_whether_retired(self, transaction: Any) -> None:
        retired = self._layout.name(RETIRED).decode()
        await transaction.watch(retired)
        if not await transaction.hexists(retired, self._sink):
            raise RetirementError(f"{self._sink} has been added anew")
        transaction.multi()

    async def remove(self, *, only_if_retired: bool = False) -> int:
        """Remove all keys in one step, and return how many they were.

        Arguments:
            only_if_retired: not if the sink has been added anew; otherwise it is noted as retired.

        Raises:
            RetirementError: a worker has come that has the sink, or something was sent to it.
            TransportError: Redis is unreachable or refuses.
        """
        dead = [
            token
            for token, (_, readable) in (await read_members(self._client, self._layout)).items()
            if self._may_have_it(readable)
        ]
        await self.check_nobody_has_it()
        remains = await self.look()
        if remains.undelivered:
            raise RetirementError(f"something was sent to {self._sink} meanwhile; run it again")
        pipeline = self._client.pipeline(transaction=False)
        for stream in self._streams:
            pipeline.xlen(stream)
        with broker_errors("XLEN"):
            lengths = await pipeline.execute()
        hashes = ("fleet:members", "topics", "fleet:owners", "paused-sinks", RETIRED)
        keys = [*map(self._layout.name, hashes), *self._streams, *self._others]
        with broker_errors("sink_retire"):
            now_s, _ = await self._client.time()
            refusal = await self._client.eval(
                _SCRIPT,
                len(keys),
                *keys,
                *(self._topic, self._sink, "" if only_if_retired else now_s, STREAMS_MAX),
                *(*lengths, *dead),
            )
        if refusal is not None:
            raise RetirementError(f"{refusal.decode()} meanwhile; run it again")
        log.info("sink retired", action="sink_retired", sink=self._sink, keys=remains.keys)
        return remains.keys


def _portions(
    messages: Iterable[tuple[bytes, Fields]],
) -> Iterator[list[tuple[bytes, Fields]]]:
    """Divide `messages`, so that those of one entry stay together: it is removed with them."""
    portion: list[tuple[bytes, Fields]] = []
    for _, of_entry in groupby(messages, key=lambda message: stream_id_of(message[0])):
        portion += of_entry
        if len(portion) >= _PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _why(noted: bytes | None) -> Dead:
    """Say why an entry is dead; `noted` is what is known of attempts at it, if there were any."""
    try:
        count, first_at_s, _, error = orjson.loads(noted or b"")
        told = f"{_WHY}; the last attempt: {error}"
        return Dead(Reason.SINK_RETIRED, told, max(int(count), 1), float(first_at_s) or None)
    except (ValueError, TypeError):
        return Dead(Reason.SINK_RETIRED, _WHY)
