"""How many partitions each topic has, kept in Redis: ``<prefix>topics``, a hash.

A key's partition depends on their number, so a worker with another number would put a key's
entries where nobody keeps them in order. The first worker records the numbers; after that they
cannot change by accident.
"""

from __future__ import annotations

from collections.abc import Iterable

import redis.asyncio

from .errors import PartitionsChangedError, UnknownTopicError, broker_errors
from .layout import StreamLayout

__all__ = ["TopicRegistry"]


class TopicRegistry:
    """The recorded numbers of partitions of an app's own topics.

    Arguments:
        reply_prefix: what the names of topics for replies start with.
    """

    def __init__(
        self, client: redis.asyncio.Redis, layout: StreamLayout, *, reply_prefix: str = ""
    ) -> None:
        self._client = client
        self._layout = layout
        self._reply_prefix = reply_prefix
        self._key = layout.name("topics")

    async def record(self, topics: Iterable[str]) -> None:
        """Record the numbers of `topics`, or compare them with those recorded before.

        Raises:
            PartitionsChangedError: a topic is recorded with another number.
            TransportError: Redis is unreachable or refuses.
        """
        own = [topic for topic in topics if self._layout.streams(topic)[0].is_ours]
        if not own:
            return
        pipeline = self._client.pipeline(transaction=False)
        for topic in own:
            pipeline.hsetnx(self._key, topic, str(self._layout.partitions(topic)))
            pipeline.hget(self._key, topic)
        with broker_errors("HSETNX"):
            answers = await pipeline.execute()
        for topic, recorded in zip(own, answers[1::2], strict=True):
            if int(recorded) != self._layout.partitions(topic):
                raise PartitionsChangedError(
                    f"topic {topic} has {int(recorded)} partitions in Redis"
                    f" and {self._layout.partitions(topic)} in this worker's settings"
                )

    async def look_up(self, topic: str) -> None:
        """Learn of `topic` as recorded, if this process does not know it.

        Raises:
            UnknownTopicError: no worker has declared it.
        """
        if topic in self._layout:
            return
        if self._reply_prefix and topic.startswith(self._reply_prefix):
            # A worker's own, of one partition; an answer may come before it is declared.
            self._layout.learn(topic, 1)
            return
        with broker_errors("HGET"):
            recorded = await self._client.hget(self._key, topic)
        if recorded is None:
            raise UnknownTopicError(f"topic {topic!r}: no worker has declared it")
        self._layout.learn(topic, int(recorded))

    async def forget(self, topic: str) -> None:
        """Delete `topic`, its streams and its record: nobody reads or writes it any more.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        with broker_errors("DEL"):
            await self._client.delete(*(stream.key for stream in self._layout.streams(topic)))
            await self._client.hdel(self._key, topic)
