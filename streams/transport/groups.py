"""Streams and consumer groups: made where they are missing, and missed where they should be there.

A group that is missing when a worker joins was never made, or was lost while nobody looked. What
Redis (:mod:`.positions`) or else the journal remembers of it tells which. A group that is missing
later was lost. What is left of a lost one's stream is read from the start, also by a worker whose
configuration says ``$``: what was done before finds its effects in place.

``XGROUP CREATE`` succeeds once, so that each loss is reported by one worker.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from .errors import BrokerRefusedError, broker_errors, translate
from .layout import Stream
from .loss import Journal, Loss, LossKind, Position, order_of
from .lua import script
from .positions import Positions
from .recorder import LossRecorder

__all__ = ["Groups"]

_COUNT_MAX = 20_000


@dataclass(frozen=True, slots=True)
class _Made:
    """The answer of ``group_make.lua``."""

    is_new: bool
    #: Whether the stream was there before.
    existed: bool
    #: -1 on servers that do not count.
    added: int
    length: int
    first: str
    last_id: str
    known_is_there: bool
    #: The position as Redis had it; empty: none.
    before: dict[str, str]

    @classmethod
    def from_answer(cls, answer: list[Any]) -> _Made:
        new, existed, added, length, first, last_id, is_there, before = answer
        it = (str(item.decode()) for item in before)
        return cls(
            bool(new),
            bool(existed),
            added,
            length,
            first.decode(),
            last_id.decode(),
            bool(is_there),
            dict(zip(it, it, strict=True)),
        )


class Groups:
    """Makes the groups of an app's streams.

    Arguments:
        group: the name of the consumer group.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        positions: Positions,
        recorder: LossRecorder,
        *,
        group: str,
        journal: Journal | None,
    ) -> None:
        self._client = client
        self._positions = positions
        self._recorder = recorder
        self._group = group
        self._journal = journal
        self._make_script = client.register_script(script("group_make"))
        self._begin_counts = client.register_script(script("counts_begin"))

    async def ensure(self, streams: Iterable[Stream]) -> None:
        """Make what is missing, as a worker that joins.

        Raises:
            JournalUnavailableError: a group is missing that may have been lost; ask again.
            TransportError: Redis is unreachable or refuses.
        """
        streams = list(streams)
        # First those that are remembered: if one says that Redis was emptied, so are ours.
        emptied = False
        for stream in streams:
            if not stream.is_ours:
                emptied = await self._ensure_remembered(stream) or emptied

        def note(stream: Stream, made: _Made) -> None:
            if made.is_new and emptied:
                self._report(stream, made, None)

        await self._make(
            [(stream, stream.config.start_id, "") for stream in streams if stream.is_ours], note
        )

    async def _ensure_remembered(self, stream: Stream) -> bool:
        """Make the group of somebody else's stream; return whether Redis was emptied."""
        if await self._is_there(stream):
            return False
        emptied = False
        known = await self._in_redis(stream)
        if known is None and self._journal is not None:
            known = await self._journal.recall(stream.key.decode())
            emptied = known is not None

        def note(stream: Stream, made: _Made) -> None:
            if made.is_new and known is not None:
                self._report(stream, made, known)

        start_id, known_id = (stream.config.start_id, "") if known is None else ("0", known.id)
        await self._make([(stream, start_id, known_id)], note)
        return emptied

    async def ensure_again(self, streams: Iterable[Stream]) -> None:
        """Make those anew that were there once and are gone.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        last_known = {stream: self._positions.last_known(stream) for stream in streams}

        def note(stream: Stream, made: _Made) -> None:
            if made.is_new:
                known = last_known[stream]
                before = _position_of(stream, made.before)
                if before is not None and before.added > known.added:
                    known = before  # another worker has read it since
                self._report(stream, made, known if known.id or known.added else None)
            self._positions.begin(stream, made.added, made.length, made.last_id, anew=made.is_new)

        await self._make([(stream, "0", known.id) for stream, known in last_known.items()], note)

    async def _is_there(self, stream: Stream) -> bool:
        try:
            with broker_errors("XINFO GROUPS"):
                groups = await self._client.xinfo_groups(stream.key)
        except BrokerRefusedError as exc:
            if "no such key" in str(exc):
                return False
            raise
        return any(group["name"] == self._group.encode() for group in groups)

    async def _in_redis(self, stream: Stream) -> Position | None:
        with broker_errors("HGETALL"):
            fields: dict[Any, Any] = await self._client.hgetall(self._positions.key(stream))
        return _position_of(stream, {k.decode(): v.decode() for k, v in fields.items()})

    async def _make(
        self, wanted: Sequence[tuple[Stream, str, str]], note: Callable[[Stream, _Made], None]
    ) -> None:
        """Make all groups that are `wanted` at once, however far away Redis is.

        Arguments:
            wanted: streams, where their groups are to start, and the last id known of them.
            note: told of each that was answered for, also where another was refused.
        """
        # Not left to itself: what asks for scripts keeps its connection if it is cancelled then.
        async with self._client.pipeline(transaction=False) as pipeline:
            for stream, start_id, known_id in wanted:
                position = [] if stream.is_ours else [self._positions.key(stream)]
                await self._make_script(
                    keys=[stream.key, *position],
                    args=[self._group, start_id, secrets.token_hex(8), _COUNT_MAX, known_id],
                    client=pipeline,
                )
            with broker_errors("XGROUP CREATE"):
                answers = await pipeline.execute(raise_on_error=False)
        made: dict[Stream, _Made] = {}
        refused: list[Exception] = []
        for (stream, *_), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Exception):
                refused.append(answer)
                continue
            made[stream] = _Made.from_answer(answer)
            note(stream, made[stream])
        await self._count(made)
        if refused:
            raise translate(refused[0], "XGROUP CREATE") from refused[0]

    async def _count(self, made: dict[Stream, _Made]) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for stream, answer in made.items():
                if stream.config.is_bundled:
                    await self._begin_counts(
                        keys=[stream.key, self._positions.counts_key(stream)],
                        args=[self._group, stream.tp.partition, int(answer.is_new)],
                        client=pipeline,
                    )
            with broker_errors("counts_begin"):
                await pipeline.execute()

    def _report(self, stream: Stream, made: _Made, known: Position | None) -> None:
        same = known is not None and _is_same(stream, made, known)
        entries: int | None = None
        if known is not None and not stream.is_ours and made.added >= 0:
            removed = made.added - made.length
            if same:
                nothing_read_is_left = not made.first or order_of(known.id) < order_of(made.first)
                entries = max(removed - known.accounted, 0) if nothing_read_is_left else 0
            else:
                entries = max(known.added - known.accounted, 0) + removed or None
        self._recorder.report(
            Loss(
                kind=LossKind.GROUP_LOST if same else LossKind.STREAM_RECREATED,
                stream=stream.key.decode(),
                after_id=known.id if known is not None else "",
                before_id=made.first,
                entries=entries,
                account=(known.epoch if known is not None else "") or secrets.token_hex(8),
            )
        )


def _is_same(stream: Stream, made: _Made, known: Position) -> bool:
    """Whether the stream is the one that was read before, and only its group is gone."""
    if not made.existed or order_of(made.last_id) < order_of(known.last_id):
        return False
    if made.added < 0:
        return True
    if made.added < known.added:
        return False
    if not known.id or known.id == "0-0":
        return True
    if made.first and order_of(made.first) <= order_of(known.id):
        return made.known_is_there
    # What was read is no longer there: it must have been removed from this very stream.
    return stream.is_ours or made.added - made.length >= known.accounted


def _position_of(stream: Stream, fields: dict[str, str]) -> Position | None:
    if "epoch" not in fields:
        return None
    return Position(
        stream=stream.key.decode(),
        epoch=fields["epoch"],
        id=fields["id"],
        accounted=int(fields["ordinal"]) + int(fields["lost"]),
        last_id=fields["last"],
        added=int(fields["added"]),
    )
