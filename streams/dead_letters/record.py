"""Dead letters: entries that ended without their effects, kept whole with the reason.

A stage appends the letter to the topic ``dead-letters`` (:meth:`DeadLetter.record`), so that it
waits for Redis alone; an agent then stores it in the table ``dead_letters`` (:func:`rows`), from
where it can be listed, replayed and discarded. In the topic, the payload is the message's value,
as it came, and everything else stands in the header :data:`LETTER`, as JSON.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

import orjson

from streams.ids import excerpt
from streams.outcomes import Dead, Reason
from streams.topics import PAYLOAD_FIELD, REPLAY_FIELD, REPLAY_OF, SOURCE_ID
from streams.transport import Entry, Record

__all__ = ["LETTER", "DeadLetter", "batches", "rows"]

#: The header that everything but the payload stands in.
LETTER: Final = "letter"

#: Letters in one statement, and the size of the payloads in it, at most; a larger one goes alone.
_BATCH_MAX: Final = 200
_BATCH_MAX_BYTES: Final = 4 * 1024 * 1024

#: A replay's letter is named by a number of the table's identity column.
_LETTER_ID_DIGITS_MAX: Final = 18


@dataclass(frozen=True, slots=True, eq=False)
class DeadLetter:
    """One death of one entry."""

    #: The entry of the producer's stream whose effect failed to be.
    source_id: str
    #: The entry that died: the same, or the delivery's own in the topic of a sink.
    entry_id: str
    stage: str
    #: The sink's name where it is a delivery, else empty.
    sink: str
    reason: str
    error: str
    attempts: int
    first_at_s: float
    at_s: float
    #: The letter that this entry is a replay of.
    replay_of: int | None = None
    key: bytes | None = None
    payload: bytes | None = field(default=None, repr=False)
    #: The producer's fields other than the payload.
    fields: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def of_source(cls, entry: Entry, stage: str, dead: Dead) -> Self:
        """The letter for an entry of the producer's stream."""
        others = {
            name: value
            for name, value in entry.fields.items()
            if name not in (PAYLOAD_FIELD, REPLAY_FIELD)
        }
        return cls(
            source_id=entry.id.decode(),
            entry_id=entry.id.decode(),
            stage=stage,
            sink="",
            replay_of=letter_id(entry.fields.get(REPLAY_FIELD)),
            payload=entry.fields.get(PAYLOAD_FIELD),
            fields=others,
            **_why(dead),
        )

    @classmethod
    def of_report(cls, entry: Entry, stage: str, dead: Dead) -> Self:
        """The letter for an entry that was routed: a replay of it begins at the source again."""
        source_id = _text(entry.header(SOURCE_ID))
        return cls(
            source_id=source_id,
            entry_id=source_id,
            stage=stage,
            sink="",
            replay_of=letter_id(entry.header(REPLAY_OF)),
            payload=entry.value,
            **_why(dead),
        )

    @classmethod
    def of_delivery(cls, entry: Entry, stage: str, sink: str, dead: Dead) -> Self:
        """The letter for a delivery: a replay of it goes to this sink alone."""
        return cls(
            source_id=_text(entry.header(SOURCE_ID)),
            entry_id=entry.id.decode(),
            stage=stage,
            sink=sink,
            replay_of=letter_id(entry.header(REPLAY_OF)),
            key=entry.key,
            payload=entry.value,
            **_why(dead),
        )

    def record(self) -> Record:
        """Return the message of the topic that carries it."""
        about = asdict(self) | {
            "key": _encode(self.key),
            "fields": [[_encode(name), _encode(value)] for name, value in self.fields.items()],
        }
        del about["payload"]
        return Record(self.payload, headers={LETTER: orjson.dumps(about)})

    @classmethod
    def from_entry(cls, entry: Entry) -> Self:
        """Read what `record` wrote; an entry without a description is a letter without one."""
        try:
            about: dict[str, Any] = orjson.loads(entry.header(LETTER) or b"")
            about["key"] = _decode(about["key"])
            about["fields"] = {_decode(n) or b"": _decode(v) or b"" for n, v in about["fields"]}
            return cls(payload=entry.value, **about)
        except (ValueError, TypeError, KeyError) as exc:
            error = f"the letter's description cannot be read: {excerpt(str(exc))}"
            source_id = _text(entry.header(SOURCE_ID))
            why = _why(Dead(Reason.BAD_ENTRY, error))
            return cls(source_id, entry.id.decode(), "unknown", "", payload=entry.value, **why)

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells the row it belongs to: two of the same do not fit into one statement."""
        return (self.sink, self.replay_of or (self.source_id, self.payload))


def letter_id(text: bytes | None) -> int | None:
    """Return the letter that a replayed entry names; None for what is no such name."""
    if text is None or len(text) > _LETTER_ID_DIGITS_MAX or not text.isdigit():
        return None
    return int(text)


def batches(letters: Iterable[DeadLetter]) -> list[list[DeadLetter]]:
    """Split `letters` so that each part fits into one statement, in order."""
    parts: list[list[DeadLetter]] = []
    size = 0
    known: set[tuple[object, ...]] = set()
    for letter in letters:
        size += len(letter.payload or b"")
        part = parts[-1] if parts else None
        full = part is not None and (
            len(part) >= _BATCH_MAX or size > _BATCH_MAX_BYTES or letter.identity in known
        )
        if part is None or full:
            part = []
            parts.append(part)
            size, known = len(letter.payload or b""), set()
        part.append(letter)
        known.add(letter.identity)
    return parts


def rows(letters: Iterable[DeadLetter]) -> str:
    """Return `letters` as the one parameter of ``agents/sql/dead_letters.sql``."""
    return orjson.dumps(
        [
            {
                "replay_of": letter.replay_of,
                "source_id": letter.source_id,
                "entry_id": letter.entry_id,
                "stage": letter.stage,
                "sink": letter.sink,
                "reason": letter.reason,
                "error": letter.error,
                "attempts": letter.attempts,
                "first_at": _moment(letter.first_at_s),
                "at": _moment(letter.at_s),
                "entry_key": _encode(letter.key),
                "payload": _encode(letter.payload),
                "field_names": [_encode(name) for name in letter.fields],
                "field_values": [_encode(value) for value in letter.fields.values()],
            }
            for letter in letters
        ]
    ).decode()


def _why(dead: Dead) -> dict[str, Any]:
    now_s = time.time()
    return {
        "reason": dead.reason.value,
        "error": dead.error,
        "attempts": dead.attempts,
        "first_at_s": now_s if dead.first_at_s is None else dead.first_at_s,
        "at_s": now_s,
    }


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def _text(header: bytes | None) -> str:
    return (header or b"").decode("ascii", "backslashreplace")


def _encode(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _decode(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
