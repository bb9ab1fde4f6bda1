"""Which Redis keys stand behind which Faust topic, and which partition a key belongs to.

The keys of one app, with prefix ``{<app id>}:``:

============================= =========================================================
key                           holds
============================= =========================================================
``<prefix><topic>:<n>``       stream: partition n of a topic of ours
``<prefix>topics``            hash: number of partitions by topic
``<prefix>fleet:members``     hash: what each worker says of itself, by its token
``<prefix>fleet:beats``       hash: how often each has said that it is alive
``<prefix>fleet:owners``      hash: who reads which partition
``<prefix>position:<topic>``  hash: how far a stream of somebody else was read
``<prefix>counts:<topic>``    hash: messages of a topic whose entries hold several
``<prefix>parts:<topic>:<n>`` hash: what is done with of entries that are not acknowledged
============================= =========================================================
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from faust.types import TP

from .errors import UnknownTopicError, UnsupportedError
from .options import StreamConfig

__all__ = ["Stream", "StreamLayout", "partition_of"]


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of `key`: CRC-32, the same in every process and on every machine."""
    return zlib.crc32(key) % partitions


@dataclass(frozen=True, slots=True)
class Stream:
    """One partition of one topic: one Redis stream."""

    tp: TP
    key: bytes
    config: StreamConfig

    @property
    def is_ours(self) -> bool:
        """Whether this app writes the stream, and so trims it."""
        return self.config.external_key is None


class StreamLayout:
    """The topics declared so far and the streams behind them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._topics: dict[str, tuple[Stream, ...]] = {}
        #: Topics known from Redis only, which has the number of partitions and no settings.
        self._looked_up: set[str] = set()

    def declare(self, topic: str, partitions: int, config: StreamConfig) -> None:
        """Make `topic` known; declaring it again must say the same.

        Raises:
            UnsupportedError: for another number of partitions, or other stream settings.
        """
        if config.external_key is not None and partitions != 1:
            raise UnsupportedError(
                f"topic {topic}: stream {config.external_key} is one partition, not {partitions}"
            )
        streams = tuple(
            Stream(TP(topic, n), self._key(topic, n, config), config) for n in range(partitions)
        )
        if topic in self._looked_up:
            self._looked_up.discard(topic)
            del self._topics[topic]
        known = self._topics.setdefault(topic, streams)
        if known != streams:
            raise UnsupportedError(
                f"topic {topic}: declared with {len(known)} and with {partitions} partitions,"
                " or with different stream settings"
            )

    def learn(self, topic: str, partitions: int) -> None:
        """Make `topic` known for sending, until this worker declares it itself."""
        if topic not in self._topics:
            self.declare(topic, partitions, StreamConfig())
            self._looked_up.add(topic)

    def is_declared(self, topic: str) -> bool:
        """Whether this worker has declared `topic` itself."""
        return topic in self._topics and topic not in self._looked_up

    def _key(self, topic: str, partition: int, config: StreamConfig) -> bytes:
        if config.external_key is not None:
            return config.external_key.encode()
        return f"{self.prefix}{topic}:{partition}".encode()

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def topics(self) -> Iterator[str]:
        """The names of the topics declared so far."""
        return iter(tuple(self._topics))

    def streams(self, topic: str) -> tuple[Stream, ...]:
        """The streams of `topic`, by partition.

        Raises:
            UnknownTopicError: if it was never declared.
        """
        try:
            return self._topics[topic]
        except KeyError:
            raise UnknownTopicError(f"topic {topic!r} is not declared") from None

    def partitions(self, topic: str) -> int:
        """The number of partitions of `topic`."""
        return len(self.streams(topic))

    def stream(self, tp: TP) -> Stream:
        """The stream behind one partition."""
        return self.streams(tp.topic)[tp.partition]

    def all_streams(self, topics: Iterable[str]) -> list[Stream]:
        """The streams of all of `topics`."""
        return [stream for topic in topics for stream in self.streams(topic)]

    def counts_key(self, topic: str) -> bytes:
        """The key of the counts of a topic whose entries hold several messages."""
        return self.name(f"counts:{topic}")

    def parts_key(self, tp: TP) -> bytes:
        """The key of what is done with of a partition's entries that are not acknowledged."""
        return self.name(f"parts:{tp.topic}:{tp.partition}")

    def name(self, suffix: str) -> bytes:
        """The full key of something of the app's that is no topic."""
        return f"{self.prefix}{suffix}".encode()
