"""The quick way to read a payload takes what is beyond doubt, and reads it as the strict one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from benchmarks.mixes import make_log
from streams.plain_payload import read_plain
from streams.strict_json import parse_object
from tests.fuzz.mutations import Mutator, seeds

PLAIN: dict[str, Any] = {
    "event": "capsule.create",
    "outcome": "success",
    "timestamp": "2026-02-03T04:05:06Z",
    "team_id": "team-" + "0" * 25,
    "actor": {"type": "system"},
    "resource": {"id": "cl-" + "0" * 25, "type": "sandbox"},
    "metadata": {"host_ip": "10.0.0.1"},
}


def raw(**changed: object) -> bytes:
    return json.dumps(PLAIN | changed).encode()


def test_what_the_producer_writes_is_plain() -> None:
    payloads = [payload for _, payload in make_log("all", events=300, seed=1).entries if payload]
    assert len(payloads) == 300
    assert all(read_plain(payload) is not None for payload in payloads)


@pytest.mark.parametrize(
    "payload",
    [
        raw().replace(b"}}", b'},"team_id":"team-x"}'),
        raw(metadata={"a": "b"}).replace(b'"a": "b"', b'"a": "b", "a": "c"'),
        raw(metadata={"a": "b"}).replace(b'"a": "b"', b'"a" : "b", "a" : "c"'),
        raw().replace(b'"event":', b'"event" :').replace(b"{", b'{"event":"x",', 1),
        raw(error='a text with a key in it: "x":'),
        raw(error="back\\slash"),
        raw(error="ümlaut"),
        raw(extra=1),
        raw(error=None),
        raw(metadata={"a": None}),
        raw(metadata={"a": 1}),
        raw(actor={"type": "system", "role": "x"}),
        raw(actor=None),
        raw() + b"x",
        b"",
        b"{}",
        b"[]",
    ],
)
def test_what_is_not_beyond_doubt_is_left_to_the_strict_way(payload: bytes) -> None:
    assert read_plain(payload) is None


def test_what_is_taken_has_each_key_once_and_reads_the_same() -> None:
    originals, mutator, taken = seeds(100), Mutator(7), 0
    chosen = random.Random(7)
    for _ in range(5_000):
        payload = mutator.mutant(chosen.choice(originals), chosen.choice(originals))
        plain = read_plain(payload)
        if plain is None:
            continue
        taken += 1
        fields = parse_object(payload)
        assert fields["event"] == plain.event
        assert fields["resource"]["id"] == plain.resource.id  # type: ignore[index]
        assert fields["metadata"] == plain.metadata
        assert fields.get("error", "") == plain.error_text
    assert taken > 100
