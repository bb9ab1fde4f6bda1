"""Sending dead letters again, each exactly once for each order.

A replay is a new entry, as the old id is below its capsule's watermark by now; it names the letter,
so that a second death finds its way back. What failed in the pipeline begins at the producer's
stream, where the rules judge it afresh; a delivery goes to the topic of its own sink, with the same
delivery id.

The steps of one order, any of which may be the last before the command is killed:

1. Postgres: the letter is ``replaying``, its number of replays one higher (``LetterStore.claim``).
2. Redis, in one transaction: the entry, and a note that this replay of this letter is that entry.
3. Postgres: the letter is ``replayed``, as that entry.
4. Redis: the note may go.

Whoever finds a letter ``replaying`` goes on with step 2, which sends nothing where there is a note.
Step 2 and 3 are made with the letter's row locked. A command that lost its connection to Postgres,
and so the lock, and does not know yet, is stopped by the note, which therefore stays for an hour.
A note whose step 4 was never made goes after 90 days; an order that was cut off has to be ended by
then.

The transaction is WATCH and MULTI and no script, because a script takes some thousand arguments
only, and the producer's fields may be more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from importlib import resources
from typing import Any, Final

import redis.asyncio
import structlog
from redis.exceptions import WatchError

from streams.dead_letters.letters import Letter, Order
from streams.dead_letters.store import LetterStore
from streams.errors import ReconcilerError
from streams.events import EntryId
from streams.recorded_topics import recorded_partitions
from streams.topics import PAYLOAD_FIELD, REPLAY_FIELD, REPLAY_OF, SOURCE_ID
from streams.transport import (
    BrokerRefusedError,
    StreamLayout,
    broker_errors,
    partition_of,
)
from streams.transport.bundles import added_field
from streams.transport.entry import HEADER_PREFIX, encode_fields

__all__ = ["ReplayError", "Resender"]

log = structlog.get_logger(__name__)

_NOTE: Final = resources.files("streams.lua").joinpath("replay_note.lua").read_text("utf-8")
_NOTE_MAX_S: Final = 90 * 86_400
#: How long it is kept when the letter is replayed.
_NOTE_AFTER_S: Final = 3_600
#: Replays in the producer's stream that nobody has read are at most twice as many: it is trimmed at
#: about 10,000 entries, read or not.
_AHEAD_MAX: Final = 500
_LOOK_EVERY_S: Final = 0.1
#: How long none of them may be read before the command gives up.
_STANDSTILL_S: Final = 30.0


class ReplayError(ReconcilerError):
    """A letter cannot be sent again as things are; run it again when they are not."""


class Resender:
    """Sends letters that are ``replaying``.

    Arguments:
        source: the producer's stream.
        group: the consumer group of the app.
        layout: where the app's keys are.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        store: LetterStore,
        *,
        source: str,
        group: str,
        layout: StreamLayout,
    ) -> None:
        self._client = client
        self._store = store
        self._source = source
        self._group = group
        self._layout = layout
        self._topics_key = layout.name("topics")
        #: The last entry of each full step into the producer's stream that may be unread.
        self._steps: deque[EntryId] = deque()
        self._in_step = 0

    async def check(self, sinks: Iterable[str]) -> None:
        """See that somebody will read what is to be sent, for the pipeline (``""``) or a sink.

        A group that is made later may begin behind what is there.

        Raises:
            ReplayError: no worker has ever read there.
            TransportError: Redis is unreachable or refuses.
        """
        for sink in sorted(sinks):
            if not sink:
                await self._read_up_to()
            else:
                await recorded_partitions(self._client, self._layout, _topic(sink))

    async def send(self, letter: Letter) -> str | None:
        """Send a letter that is ``replaying`` by now, once, and return the id of its entry.

        None: by now somebody else has. Whether the sink's backlog has room is asked before
        (:class:`streams.sinks.room.BacklogRoom`).

        Raises:
            ReplayError: nobody reads what is sent; the letter stays as it is.
            TransportError, DatabaseUnavailableError: it is sent or not; do it again.
        """
        if not letter.sink:
            # Not with the row locked: it may take a while.
            await self._wait_for_room()
        entry_id = await self._store.send(letter.id, self._send_once)
        if entry_id is not None:
            await self._let_go(letter.id)
        return entry_id

    async def _send_once(self, order: Order) -> str:
        while True:
            async with self._client.pipeline(transaction=True) as transaction:
                with broker_errors("XADD"):
                    try:
                        return await self._send_unless_noted(transaction, order)
                    except WatchError:
                        continue

    async def _send_unless_noted(self, transaction: Any, order: Order) -> str:
        note = self._note(order.letter_id)
        await transaction.watch(note, self._topics_key)
        noted: bytes | None = await transaction.get(note)
        if noted is not None:
            number, _, entry_id = noted.decode().partition(" ")
            if int(number) == order.replays:
                return entry_id
            if int(number) > order.replays:
                raise ReplayError(f"letter {order.letter_id} was replayed by somebody else since")
        stream, fields, name, added = await self._entry(transaction, order)
        transaction.multi()
        transaction.execute_command("XADD", stream, "*", *fields)
        about = (order.replays, name, order.letter_id, _NOTE_MAX_S)
        transaction.eval(_NOTE, 2, stream, note, *about)
        if added is not None:
            counts = self._layout.counts_key(_topic(order.sink)).decode()
            transaction.hincrby(counts, added, 1)
        sent, *_ = await transaction.execute()
        if not order.sink:
            self._count(sent)
        log.info(
            "dead letter sent again",
            action="letter_replayed",
            letter=order.letter_id,
            replays=order.replays,
            origin_id=order.origin_id,
            sink=order.sink,
            entry=sent.decode(),
        )
        return str(sent.decode())

    async def _entry(
        self, client: redis.asyncio.Redis, order: Order
    ) -> tuple[bytes, list[bytes], bytes, str | None]:
        """Return the stream, the fields, the name of the one that has the letter's number.

        And, of a topic whose messages are counted, the count to add it to.
        """
        number = str(order.letter_id).encode()
        if not order.sink:
            own = () if order.payload is None else ((PAYLOAD_FIELD, order.payload),)
            others = (pair for pair in order.fields if pair[0] not in (PAYLOAD_FIELD, REPLAY_FIELD))
            pairs = (*own, *others, (REPLAY_FIELD, number))
            flat = [part for pair in pairs for part in pair]
            return self._source.encode(), flat, REPLAY_FIELD, None
        headers = {SOURCE_ID: order.origin_id.encode(), REPLAY_OF: number}
        fields = encode_fields(order.key, order.payload, headers)
        partitions = await recorded_partitions(client, self._layout, _topic(order.sink))
        where = 0 if order.key is None else partition_of(order.key, partitions)
        stream = self._layout.name(f"{_topic(order.sink)}:{where}")
        return stream, fields, HEADER_PREFIX + REPLAY_OF.encode(), added_field(where)

    async def _let_go(self, letter_id: int) -> None:
        """Have the note go, but not yet."""
        with broker_errors("EXPIRE"):
            await self._client.expire(self._note(letter_id), _NOTE_AFTER_S)

    def _note(self, letter_id: int) -> bytes:
        return self._layout.name(f"replay-of-letter-{letter_id}")

    def _count(self, entry_id: bytes) -> None:
        self._in_step += 1
        if self._in_step == _AHEAD_MAX:
            self._in_step = 0
            self._steps.append(EntryId.parse(entry_id))

    async def _wait_for_room(self) -> None:
        """Wait until all but the last full step has been read."""
        waited_s = 0.0
        while len(self._steps) > 1:
            if await self._read_up_to() >= self._steps[0]:
                self._steps.popleft()
                waited_s = 0.0
            elif waited_s >= _STANDSTILL_S:
                raise ReplayError(
                    f"nobody has read {self._source} for {waited_s:.0f} s: is a worker running?"
                )
            else:
                await asyncio.sleep(_LOOK_EVERY_S)
                waited_s += _LOOK_EVERY_S

    async def _read_up_to(self) -> EntryId:
        try:
            with broker_errors("XINFO GROUPS"):
                groups = await self._client.xinfo_groups(self._source)
        except BrokerRefusedError as exc:
            if "no such key" not in str(exc):
                raise
            groups = []
        for group in groups:
            if group["name"] == self._group.encode():
                return EntryId.parse(group["last-delivered-id"])
        raise ReplayError(f"no worker has read {self._source} yet; start one first")


def _topic(sink: str) -> str:
    return f"hooks.{sink}"
