"""Messages as the arguments of ``append.lua``, in portions that the server is not held up by.

The entries of a portion have the same fields, whose names are sent once. They are sorted by
partition, each of which keeps its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .entry import encode_fields

__all__ = ["Portion", "Record", "portions"]

#: Entries that one script appends, and their size, at most.
_ENTRIES_MAX = 500
_BYTES_MAX = 1024 * 1024


class Record(NamedTuple):
    """One message to send."""

    value: bytes | None
    key: bytes | None = None
    headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None = None
    #: ``None``: by the hash of the key, or in turn where there is no key.
    partition: int | None = None


@dataclass(slots=True)
class Portion:
    """Entries that one script appends."""

    names: list[bytes]
    #: By partition: the values of its entries, one behind the other.
    _values: dict[int, list[bytes]] = field(default_factory=dict)
    size: int = 0
    length: int = 0

    def add(self, partition: int, values: list[bytes]) -> None:
        """Add an entry."""
        if partition in self._values:
            self._values[partition] += values
        else:
            self._values[partition] = values
        self.size += 1

    def arguments(self) -> list[bytes | int]:
        """Return what the script is given of them."""
        arguments: list[bytes | int] = [len(self.names), *self.names]
        for partition, values in self._values.items():
            arguments += (partition + 1, len(values) // len(self.names))
            arguments += values
        return arguments


def portions(records: Sequence[Record], *, partition: Callable[[Record], int]) -> Iterator[Portion]:
    """Split `records` so that no script holds up the server for long, or is very large.

    Raises:
        TypeError: for what Redis takes no bytes for.
    """
    portion: Portion | None = None
    for record in records:
        fields = encode_fields(record.key, record.value, record.headers)
        names = fields[::2]
        if portion is not None and (
            names != portion.names or portion.size >= _ENTRIES_MAX or portion.length >= _BYTES_MAX
        ):
            yield portion
            portion = None
        if portion is None:
            portion = Portion(names)
        portion.add(partition(record), fields[1::2])
        portion.length += len(record.value or b"")
    if portion is not None:
        yield portion
