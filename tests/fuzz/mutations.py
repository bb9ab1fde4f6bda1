"""Sound events turned into what a broken or hostile producer might write, the same for a seed.

Three ways, mixed: bytes are damaged, which mostly ends in what is no JSON; values are swapped in
the tree, which ends in JSON of the wrong shape; and parts of two events are spliced. Some are left
as they are, so that work goes on between the bad ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from tests.event_log import EventLog, generate, textual_id
from tests.oracle import PAYLOAD_MAX_BYTES

__all__ = ["ODD_VALUES", "Mutator", "mutated_log", "odd_fields", "seeds"]

#: What may stand where a text or an object should.
ODD_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, 5e-324, -0.0, 0.1),
    *("", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "\x7f\x1b[31m", "\u2028\u202e", "💥" * 40),
    *(
        "system",
        "success",
        "capsule.create",
        "capsule.destroy",
        "capsule.create\n",
        "CAPSULE.PAUSE",
    ),
    *("cl-", "cl-" + "0" * 25, "cl-" + "z" * 25, "cl-" + "0" * 24, "cl-" + "٠" * 25),
    *("cl-f5lxx1zz5pnorynqglhzmsp33", "cl-f5lxx1zz5pnorynqglhzmsp34"),  # 2^128 - 1 and one more
    *("team-" + "0" * 25, "team-f5lxx1zz5pnorynqglhzmsp34", "host-" + "0" * 25, "CL-" + "0" * 25),
    *("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-02-30T00:00:00Z"),
    *("2026-02-03T04:05:60Z", "2026-02-03T04:05:06.9999999999Z", "transient_timeout", "x" * 5_000),
    *([], {}, [[]], [{}], ["capsule.create"], {"type": "system"}, {"": ""}, {"\0": "x"}),
    *(
        {"host_ip": None},
        {"reason": 5},
        {"host_ip": "\0"},
        {"a": {"b": {"c": []}}},
        {"\ud800": "x"},
    ),
)

_INTERESTING = (
    *(b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\\"),
    *(
        b'"',
        b'\\"',
        b"\\u0000",
        b"\\ud83d",
        b"\\ud83d\\ude00",
        b"\\u",
        b"\\x",
        b"{",
        b"}",
        b"[",
        b"]",
    ),
    *(b",", b":", b'":', b'"event":null,', b'"event":"",', b'"\\u0065vent":"capsule.create",'),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b"1.", b".5", b"1E+400", b"9" * 400, b"null"),
    *(b"true", b"\t", b"\r\n", b"\x0b", b"\xc2\xa0", b"/*", b"//", b"'", b"\x1f", b"\x7f"),
)

_FIELDS = (
    *(
        ("event",),
        ("outcome",),
        ("timestamp",),
        ("team_id",),
        ("error",),
        ("actor",),
        ("resource",),
    ),
    *(("metadata",), ("actor", "type"), ("actor", "id"), ("actor", "name"), ("resource", "id")),
    *(("resource", "type"), ("metadata", "host_ip"), ("metadata", "reason"), ("metadata", "x")),
    *(("Event",), ("",), ("unknown",), ("metadata", "")),
)


def seeds(number: int, seed: int = 1) -> list[bytes]:
    """Events as a producer writes them, good and bad ones; the first are the shortest."""
    log = generate(seed, events=number, capsules=max(number // 10, 1))
    return sorted((payload for _, payload in log.entries if payload is not None), key=len)


class Mutator:
    """Makes one mutant after the other."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._ways: tuple[tuple[Callable[[bytes, bytes], bytes], int], ...] = (
            (lambda payload, _: payload, 40),
            (lambda payload, _: self._damage(payload), 35),
            (lambda payload, _: self._swap(payload), 35),
            (self._splice, 8),
            (lambda payload, _: self._wrap(payload), 2),
        )

    def mutant(self, payload: bytes, other: bytes) -> bytes:
        """Return one mutant of `payload`; `other` is what it may be spliced with."""
        ways, weights = zip(*self._ways, strict=True)
        way: Callable[[bytes, bytes], bytes] = self._rng.choices(ways, weights)[0]
        return way(payload, other)

    def large(self, payload: bytes, size: int) -> bytes:
        """Return `payload` with a field more, so that it is `size` bytes long."""
        return payload[:-1] + b',"x":"' + b"x" * (size - len(payload) - 7) + b'"}'

    def _damage(self, payload: bytes) -> bytes:
        damaged = bytearray(payload)
        for _ in range(self._rng.choice((1, 1, 1, 2, 4, 16))):
            at = self._rng.randrange(len(damaged) + 1)
            kind = self._rng.randrange(6)
            if kind == 0 and at < len(damaged):
                damaged[at] ^= 1 << self._rng.randrange(8)
            elif kind == 1:
                damaged[at:at] = self._rng.choice(_INTERESTING)
            elif kind == 2:
                word = self._rng.choice(_INTERESTING)
                damaged[at : at + len(word)] = word
            elif kind == 3:
                del damaged[at : at + self._rng.randrange(1, 9)]
            elif kind == 4:
                del damaged[at:]
            else:
                end = at + self._rng.randrange(1, 40)
                damaged[at:at] = damaged[at:end]
        return bytes(damaged)

    def _swap(self, payload: bytes) -> bytes:
        """Change values in the tree; what is no tree is damaged instead."""
        try:
            tree = json.loads(payload)
            assert isinstance(tree, dict)
        except (ValueError, AssertionError, RecursionError):
            return self._damage(payload)
        for _ in range(self._rng.choice((1, 1, 2, 3))):
            *outer, name = self._rng.choice(_FIELDS)
            place: Any = tree
            for step in outer:
                place = place.setdefault(step, {}) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                continue
            if self._rng.random() < 0.2:
                place.pop(name, None)
            else:
                place[name] = deepcopy(self._rng.choice(ODD_VALUES))
        text = json.dumps(tree, ensure_ascii=self._rng.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")

    def _splice(self, payload: bytes, other: bytes) -> bytes:
        return (
            payload[: self._rng.randrange(len(payload) + 1)]
            + other[self._rng.randrange(len(other) + 1) :]
        )

    def _wrap(self, payload: bytes) -> bytes:
        """Put it, or something beside it, at a depth: a few levels, the parser's limit, or more."""
        depth = self._rng.choice((1, 10, 500, 1_022, 1_023, 1_024, 1_025, 5_000))
        opening, closing = self._rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        nested = opening * depth + b"{}" + closing * depth
        if self._rng.random() < 0.3:
            return nested
        return payload[:-1] + b',"x":' + nested + b"}"


def mutated_log(seed: int, *, events: int, capsules: int) -> EventLog:
    """A log whose payloads are mutants: one in a thousand is about as large as is allowed."""
    log = generate(seed, events=events, capsules=capsules)
    mutator = Mutator(seed)
    rng = random.Random(seed)
    entries = []
    last = b"{}"
    for number, (entry_id, payload) in enumerate(log.entries):
        if payload is not None:
            original, payload = payload, mutator.mutant(payload, last)
            last = original
            if number % 1_000 == 999:
                size = rng.choice((50_000, PAYLOAD_MAX_BYTES, PAYLOAD_MAX_BYTES + 1, 300_000))
                payload = mutator.large(original, size)
        entries.append((entry_id, payload))
    return EventLog(log.rows, entries)


def odd_fields(seed: int) -> Iterator[dict[bytes, bytes]]:
    """Fields of entries that a producer's mistake might make: other names, many, empty, binary.

    None of them has a field of the payload's exact name, so each is a bad entry.
    """
    rng = random.Random(seed)
    good = textual_id("cl-", next(iter(generate(seed, events=0, capsules=1).rows)))
    payload = b'{"event":"capsule.pause","resource":{"id":"%s"}}' % good.encode()
    names = (
        *(b"Payload", b"payload ", b"", b"\0", b"payload\0", b"\xff\xfe", "payload\u200b".encode()),
        *(b"replay-of", b"source-id", b"v", b"k", b"h:source-id", b"x" * 5_000, b"\n", b"%s{0}"),
    )
    values = (payload, b"", b"\0", b"\xff" * 40, b"1", b"9" * 30, b"x" * 5_000)
    while True:
        number = rng.choice((1, 1, 2, 3, 200))
        yield {
            (rng.choice(names) if number < 200 else b"f%d" % index): rng.choice(values)
            for index in range(number)
        }
