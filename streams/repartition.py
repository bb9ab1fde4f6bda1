"""Another number of partitions for the app's topics, while no worker is there.

A capsule's partition follows from their number. So the number changes in one transaction with
the streams, and only while nobody reads or sends. A worker that starts, or wakes up, at the
same moment either is seen here, or sees the new number before it takes a partition.

What workers have left in our topics is moved if that is asked for: in the order of each old
stream, which had all of a capsule's entries, so that each capsule's order stays. A moved entry
that had its effects, and was not acknowledged, is repeated as after any crash.

Entries may wait in the source stream, and be in hand there: it is one partition whatever the
number, and `route` sends them by the new one.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import redis.asyncio
from redis.exceptions import WatchError

from streams.errors import ReconcilerError
from streams.presence import living_workers
from streams.transport import (
    Stream,
    StreamLayout,
    broker_errors,
    partition_of,
)
from streams.transport.entry import KEY_FIELD
from streams.undone import Fields, undone

__all__ = ["Change", "Repartition", "RepartitionError"]

#: Topics whose streams are as many as the setting `partitions` says.
_PARTITIONED: Final = re.compile(r"capsules|hooks\..+")


class RepartitionError(ReconcilerError):
    """The number cannot be changed as things are; nothing was."""


@dataclass(frozen=True, slots=True)
class Change:
    """What changes, or would."""

    #: The recorded number, by topic.
    recorded: dict[str, int]
    partitions: int
    #: Entries that are not done yet, by topic.
    left: dict[str, int] = field(default_factory=dict)

    @property
    def is_needed(self) -> bool:
        """Whether some topic has another number."""
        return set(self.recorded.values()) != {self.partitions}


class Repartition:
    """One change of the number.

    Arguments:
        prefix: what each key of the app starts with.
        group: the consumer group of the app.
        partitions: the new number.
        silence_s: after how long without a beat a worker is dead, and so is its last read.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        prefix: str,
        *,
        group: str,
        partitions: int,
        silence_s: float,
    ) -> None:
        self._client = client
        self._group = group
        self._partitions = partitions
        self._silence_s = silence_s
        self._old = StreamLayout(prefix)
        self._new = StreamLayout(prefix)
        #: Where entries are gathered that move.
        self._staged = StreamLayout(f"{prefix}repartition:")
        self._topics_key = self._old.name("topics")
        self._fleet_keys = [
            self._old.name("fleet:members"),
            self._old.name("fleet:beats"),
            self._old.name("fleet:owners"),
        ]

    async def run(self, *, move: bool, apply: bool) -> Change:
        """Look whether the number can be changed, and change it if `apply`.

        Arguments:
            move: move entries that are not done yet; otherwise there must be none.

        Raises:
            RepartitionError: it cannot be changed now.
            TransportError: Redis is unreachable or refuses.
        """
        async with self._client.pipeline(transaction=True) as transaction:
            with broker_errors("WATCH"):
                await transaction.watch(self._topics_key, *self._fleet_keys)
                answer: Any = await self._client.hgetall(self._topics_key)
            change = self._change(answer)
            if not change.is_needed:
                return change
            await self._check_nobody_is_there()
            with broker_errors("WATCH"):
                await transaction.watch(*(s.key for s in self._old.all_streams(change.recorded)))
            change.left.update(await self._count_left(change))
            if change.left and not move:
                what = ", ".join(f"{topic}: {n}" for topic, n in change.left.items())
                raise RepartitionError(f"entries that are not done yet ({what}): see --move")
            if apply:
                await self._apply(transaction, change)
        return change

    def _change(self, answer: Mapping[bytes, bytes]) -> Change:
        numbers = {topic.decode(): int(number) for topic, number in answer.items()}
        recorded = {t: n for t, n in sorted(numbers.items()) if _PARTITIONED.fullmatch(t)}
        if not recorded:
            raise RepartitionError("no worker has recorded a number yet: just start one with yours")
        for topic, number in recorded.items():
            self._old.learn(topic, number)
            self._new.learn(topic, self._partitions)
            self._staged.learn(topic, self._partitions)
        return Change(recorded, self._partitions)

    async def _check_nobody_is_there(self) -> None:
        """Fail at the first sign of life; a killed worker is still a member and gives none."""
        workers = await living_workers(self._client, self._old, silence_s=self._silence_s)
        if workers:
            raise RepartitionError(f"stop all workers first: {', '.join(workers)}")

    async def _count_left(self, change: Change) -> dict[str, int]:
        counts = {}
        for topic in change.recorded:
            count = 0
            for stream in self._old.streams(topic):
                async for page in self._left(stream):
                    count += len(page)
            if count:
                counts[topic] = count
        return counts

    async def _left(self, stream: Stream) -> AsyncIterator[list[Fields]]:
        """Give what is not acknowledged of `stream`, in order."""
        parts_key = self._old.parts_key(stream.tp)
        async for page in undone(self._client, stream.key, self._group, parts_key=parts_key):
            yield [fields for _, fields in page]

    async def _apply(self, transaction: Any, change: Change) -> None:
        try:
            staged = await self._stage(change)
            transaction.multi()
            for topic in change.recorded:
                transaction.delete(*(stream.key for stream in self._old.streams(topic)))
                transaction.hset(self._topics_key, topic, str(self._partitions))
                # Entries that move get new ids: their attempts are counted from one again.
                retries = (f"retries:{topic}:{n}" for n in range(change.recorded[topic]))
                transaction.delete(*map(self._old.name, retries))
                # A worker that starts counts anew, one message to an entry, as they are staged.
                parts = (self._old.parts_key(stream.tp) for stream in self._old.streams(topic))
                transaction.delete(self._old.counts_key(topic), *parts)
            for stream in staged:
                transaction.rename(stream.key, self._new.stream(stream.tp).key)
            transaction.delete(*self._fleet_keys)
            with broker_errors("EXEC"):
                try:
                    await transaction.execute()
                except WatchError as exc:
                    raise RepartitionError(
                        "a worker has started, or something was sent, meanwhile"
                    ) from exc
        finally:
            await self._clear_staged(change)

    async def _clear_staged(self, change: Change) -> None:
        with broker_errors("DEL"):
            await self._client.delete(*(s.key for s in self._staged.all_streams(change.recorded)))

    async def _stage(self, change: Change) -> set[Stream]:
        """Copy what is left to where it is to be, under other names; return what has entries."""
        await self._clear_staged(change)  # a run that was killed may have left some
        staged: set[Stream] = set()
        for topic in change.left:
            for old in self._old.streams(topic):
                async for page in self._left(old):
                    pipeline = self._client.pipeline(transaction=False)
                    for fields in page:
                        new = self._place(topic, old, fields)
                        staged.add(new)
                        arguments = [part for pair in fields.items() for part in pair]
                        pipeline.execute_command("XADD", new.key, "*", *arguments)
                    with broker_errors("XADD"):
                        await pipeline.execute()
        for stream in staged:
            with broker_errors("XGROUP CREATE"):
                await self._client.xgroup_create(stream.key, self._group, id="0")
        return staged

    def _place(self, topic: str, old: Stream, fields: Fields) -> Stream:
        key = fields.get(KEY_FIELD)
        where = old.tp.partition if key is None else partition_of(key, self._partitions)
        return self._staged.streams(topic)[where % self._partitions]
