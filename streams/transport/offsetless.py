"""The part of Faust's consumer that is about offsets, for streams that have none.

An entry's id is no number in a row of numbers, and what is done with is kept per entry in the
consumer group. Faust still wants an offset on each message: it is a count of deliveries to
this worker, and means nothing to anybody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from .errors import UnsupportedError

__all__ = ["OffsetlessConsumer"]


class OffsetlessConsumer(FaustConsumer):
    """Answers what Faust asks about positions."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Nothing to seek: Redis knows what is pending."""
        return {}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return True

    async def _seek(self, partition: TP, offset: int) -> None:
        raise UnsupportedError("a stream is not read from an offset: its group has the position")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Nothing to seek, as in `seek_to_committed`."""

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        raise UnsupportedError("messages are delivered, not asked for")

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        raise UnsupportedError("messages are delivered, not asked for")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def position(self, tp: TP) -> int | None:
        """The offset of the last message delivered."""
        return self.highwater(tp)

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Offsets count deliveries to this worker, so they start at nothing."""
        return dict.fromkeys(partitions, 0)

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """The offsets of the last messages delivered."""
        return {tp: self.highwater(tp) for tp in partitions}
