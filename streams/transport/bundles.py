"""Several messages in one entry of a stream of ours: a bundle.

What Redis and a worker spend on an entry (to append it, deliver it, keep it as pending,
acknowledge and trim it) they spend once for a whole bundle.

====== ====================================================================
field  holds
====== ====================================================================
``n``  how many messages
``b``  these, in MessagePack: a list of maps, of each message its fields
====== ====================================================================

A message of a bundle has an id of its own: that of the entry, a slash, and its place. Where only
one is sent it is an entry like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import DecodeError
from msgspec.msgpack import Decoder, Encoder

from .entry import message_fields
from .portions import Record

__all__ = [
    "Call",
    "added_field",
    "as_messages",
    "bundle_fields",
    "bundles",
    "messages_of",
    "place_of",
    "places_in",
    "places_text",
    "stream_id_and_place",
    "stream_id_of",
]

COUNT_FIELD: Final = b"n"
BUNDLE_FIELD: Final = b"b"

#: Messages of one call, their size, and that of one entry, at most.
_CALL_MESSAGES_MAX: Final = 1_000
_CALL_BYTES_MAX: Final = 1024 * 1024
_BUNDLE_BYTES_MAX: Final = 16 * 1024

Message = tuple[bytes, Mapping[bytes, bytes]]

_encode: Final = Encoder().encode
_decode: Final = Decoder(list[dict[bytes, bytes]]).decode


@dataclass(slots=True)
class _Open:
    """Messages of one partition that are not an entry yet."""

    messages: list[dict[bytes, bytes]] = field(default_factory=list)
    size: int = 0


class Call:
    """One call of ``append_bundles.lua``: which partitions it is for, and its arguments.

    Arguments:
        bundle_max: messages that share an entry, at most.
    """

    def __init__(self, bundle_max: int) -> None:
        self._bundle_max = bundle_max
        self.arguments: list[bytes | int] = []
        self._places: dict[int, int] = {}
        self._open: dict[int, _Open] = {}
        self._count = self._size = 0

    @property
    def partitions(self) -> list[int]:
        """The partitions, in the order that the arguments count them in."""
        return list(self._places)

    @property
    def is_full(self) -> bool:
        """Whether more would hold up the server."""
        return self._count >= _CALL_MESSAGES_MAX or self._size >= _CALL_BYTES_MAX

    def add(self, partition: int, record: Record) -> None:
        """Add a message, behind the others of its partition."""
        if (gathered := self._open.get(partition)) is None:
            gathered = self._open[partition] = _Open()
        value, key, headers, _ = record
        gathered.messages.append(message_fields(key, value, headers))
        length = len(value or b"")
        gathered.size += length
        self._count += 1
        self._size += length
        if len(gathered.messages) >= self._bundle_max or gathered.size >= _BUNDLE_BYTES_MAX:
            self._end(partition)

    def end(self) -> None:
        """Make entries of what is left."""
        for partition in list(self._open):
            self._end(partition)

    def _end(self, partition: int) -> None:
        messages = self._open.pop(partition).messages
        place = self._places.setdefault(partition, len(self._places))
        fields = bundle_fields(messages)
        self.arguments += (place, partition, len(messages), len(fields), *fields)


def bundles(
    records: Iterable[Record], *, partition: Callable[[Record], int], bundle_max: int
) -> Iterator[Call]:
    """Give the calls that append `records`, one after the other.

    Each partition keeps the order of `records`. No call is for very much, so that none holds up
    the server, and no entry is.

    Raises:
        TypeError: for what Redis takes no bytes for.
    """
    call = Call(bundle_max)
    for record in records:
        call.add(partition(record), record)
        if call.is_full:
            call.end()
            yield call
            call = Call(bundle_max)
    call.end()
    if call.arguments:
        yield call


def bundle_fields(messages: Sequence[Mapping[bytes, bytes]]) -> list[bytes]:
    """Return the arguments of an XADD for `messages`, each of which is given by its fields."""
    if len(messages) == 1:
        return [item for pair in messages[0].items() for item in pair]
    return [COUNT_FIELD, b"%d" % len(messages), BUNDLE_FIELD, _encode(messages)]


def as_messages(entry_id: bytes, fields: Sequence[bytes]) -> Sequence[Message]:
    """Return the messages of an entry, each with its id and its fields.

    What looks like a bundle and is none is one message, for its agent to judge.
    """
    if len(fields) == 2:  # as the producer's are: what is below takes five times as long
        return ((entry_id, {fields[0]: fields[1]}),)
    if len(fields) == 4 and fields[0] == COUNT_FIELD and fields[2] == BUNDLE_FIELD:
        try:
            messages = _decode(fields[3])
        except DecodeError:
            messages = []
        if len(messages) > 1:
            return [(b"%b/%d" % (entry_id, n), message) for n, message in enumerate(messages)]
    return ((entry_id, dict(zip(fields[::2], fields[1::2], strict=True))),)


def messages_of(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Sequence[Message]:
    """Return the same of an entry whose fields are a mapping."""
    return as_messages(entry_id, [item for pair in fields.items() for item in pair])


def stream_id_and_place(message_id: bytes) -> tuple[bytes, bytes]:
    """Return the id of the entry in the stream that a message is in, and its place in there."""
    stream_id, _, place = message_id.partition(b"/")
    return stream_id, place


def stream_id_of(message_id: bytes) -> bytes:
    """Return the id of the entry in the stream that a message is in."""
    return stream_id_and_place(message_id)[0]


def place_of(message_id: bytes) -> bytes:
    """Return the place of a message in its bundle."""
    return stream_id_and_place(message_id)[1]


def places_text(places: Iterable[bytes]) -> bytes:
    """Return `places` of one bundle as what is done with of it is noted."""
    return b",".join(places)


def places_in(noted: bytes) -> frozenset[bytes]:
    """Read what `places_text` wrote."""
    return frozenset(noted.split(b","))


def added_field(partition: int) -> str:
    """Return the field of a topic's counts that has how many messages were added to `partition`."""
    return f"added:{partition}"
