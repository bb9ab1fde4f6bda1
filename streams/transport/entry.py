"""One stream entry, and how a Faust message is written into one.

The fields of an entry in a topic of ours:

====== ==========================================
field  holds
====== ==========================================
``k``  the key, absent where there is none
``v``  the value, absent for a value of ``None``
``h:`` a header, its name behind the colon
``-``  nothing: the entry of a message with none
       of the above, as an entry needs a field
====== ==========================================

An entry of a stream that is not ours keeps the fields its producer gave it, and none of them
becomes a Faust header: a header names the topic that a reply is sent to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from faust.types import TP

__all__ = ["Entry", "encode_fields", "message_fields"]

KEY_FIELD = b"k"
VALUE_FIELD = b"v"
HEADER_PREFIX = b"h:"
EMPTY_FIELD = b"-"
#: What redis-py sends as it is.
_SENDABLE = (bytes, str, memoryview)


@lru_cache(maxsize=256)
def _header_field(name: str) -> bytes:
    return HEADER_PREFIX + name.encode()


@dataclass(slots=True, eq=False)  # not frozen: it would take three times as long to make
class Entry:
    """A stream entry that was delivered to this worker and is not settled yet."""

    tp: TP
    #: As Redis writes it, ``b"<milliseconds>-<sequence>"``; in a bundle ``/<place>`` behind it.
    id: bytes
    fields: Mapping[bytes, bytes]
    #: Which of this worker's terms of ownership the entry was read in.
    epoch: int

    @property
    def key(self) -> bytes | None:
        """The message key of an entry in a topic of ours."""
        return self.fields.get(KEY_FIELD)

    @property
    def value(self) -> bytes | None:
        """The message value of an entry in a topic of ours."""
        return self.fields.get(VALUE_FIELD)

    @property
    def timestamp_s(self) -> float:
        """When Redis took the entry in, in seconds since the epoch (from its id)."""
        return int(self.id.partition(b"-")[0]) / 1000

    def header(self, name: str) -> bytes | None:
        """The header `name` of an entry in a topic of ours."""
        return self.fields.get(_header_field(name))

    def headers(self) -> dict[str, bytes]:
        """All headers of an entry in a topic of ours."""
        start = len(HEADER_PREFIX)
        return {
            name[start:].decode("utf-8", "replace"): value
            for name, value in self.fields.items()
            if name.startswith(HEADER_PREFIX)
        }


def message_fields(
    key: bytes | None,
    value: bytes | None,
    headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None,
) -> dict[bytes, bytes]:
    """Return the fields of the entry that is this message.

    Raises:
        TypeError: for what Redis takes no bytes for; better here than for a whole pipeline.
    """
    fields: dict[bytes, bytes] = {}
    if key is not None:
        fields[KEY_FIELD] = key
    if value is not None:
        fields[VALUE_FIELD] = value
    if headers:
        # Most are plain dictionaries; to ask whether it is a mapping takes as long as all the rest.
        pairs = (
            headers.items() if type(headers) is dict or isinstance(headers, Mapping) else headers
        )
        for name, content in pairs:
            fields[_header_field(name)] = content
    for item in fields.values():
        if type(item) is not bytes and not isinstance(item, _SENDABLE):
            raise TypeError(f"{type(item).__name__} in a message, where bytes are expected")
    return fields or {EMPTY_FIELD: b""}


def encode_fields(
    key: bytes | None,
    value: bytes | None,
    headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None,
) -> list[bytes]:
    """Return the same as the ``field, value, ...`` arguments of an XADD.

    Raises:
        TypeError: as `message_fields` does.
    """
    return [item for pair in message_fields(key, value, headers).items() for item in pair]
