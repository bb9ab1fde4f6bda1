"""Payloads are read once: what route has read, dispatch need not read again.

Both read the same bytes by the same rules, most of the time in the same worker and within
moments. An entry that was routed by another worker, or long ago, is read like any other.
"""

from __future__ import annotations

from typing import Final

from streams.events import Bad, CapsuleEvent, EntryId, Skip, read_event

__all__ = ["Readings"]

#: Events kept, half of them at least; the oldest go first.
_KEPT: Final = 16_384


class Readings:
    """Reads payloads, and remembers the events of the last ones.

    Arguments:
        payload_max_bytes: what is larger is not read.
    """

    def __init__(self, *, payload_max_bytes: int) -> None:
        self._payload_max_bytes = payload_max_bytes
        #: By the id of the source entry, with the payload that was read.
        self._recent: dict[bytes, tuple[bytes, CapsuleEvent]] = {}
        self._older: dict[bytes, tuple[bytes, CapsuleEvent]] = {}

    def read(self, source_id: bytes, payload: bytes | None) -> CapsuleEvent | Skip | Bad:
        """Read `payload`, and remember it if it is an event."""
        event = self._read(source_id, payload)
        if payload is not None and isinstance(event, CapsuleEvent):
            if len(self._recent) >= _KEPT // 2:
                self._older, self._recent = self._recent, {}
            self._recent[source_id] = (payload, event)
        return event

    def read_again(self, source_id: bytes, payload: bytes | None) -> CapsuleEvent | Skip | Bad:
        """Read `payload`, or say what was read before; it is forgotten then."""
        known = self._recent.pop(source_id, None) or self._older.pop(source_id, None)
        if known is not None and known[0] == payload:
            return known[1]
        return self._read(source_id, payload)

    def _read(self, source_id: bytes, payload: bytes | None) -> CapsuleEvent | Skip | Bad:
        return read_event(
            EntryId.parse(source_id), payload, payload_max_bytes=self._payload_max_bytes
        )
