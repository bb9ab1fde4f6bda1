"""What has to hold for any bytes that stand where an event should.

The same checks serve hypothesis, the coverage-guided fuzzer and the tests of whole runs. Each
raises AssertionError with what is wrong; any other exception is itself the defect that was looked
for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from streams.events import Bad, CapsuleEvent, EntryId, SandboxEvent, Skip, read_event, sandbox_event
from tests.oracle import BadEntryError, Entry, Outcome, Row, _decode, _uuid, replay

__all__ = [
    "SOURCE",
    "check_delivery",
    "check_payload",
    "nesting",
    "oracle_entries",
    "room_to_recurse",
]

SOURCE = EntryId(1_700_000_000_000, 3)
NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
OWN_TEAM = UUID(int=77)

#: More levels than these the parser refuses; Python's own stops at a depth that it does not tell.
NESTING_MAX = 1024

#: A whole string, or what opens or closes a level; the oracle is not asked about depth.
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{}]', re.DOTALL)


def check_payload(payload: bytes | None, source_id: EntryId = SOURCE) -> CapsuleEvent | Skip | Bad:
    """Read `payload`; fail unless the answer is one of three and agrees with the oracle's."""
    answer = read_event(source_id, payload)
    assert type(answer) in (CapsuleEvent, Skip, Bad), f"not an answer: {answer!r}"
    expected = _expected(payload, source_id)
    ends = [*expected.done, *expected.skipped, *expected.dead_lettered]
    assert ends == [str(source_id)]
    if isinstance(answer, Bad):
        assert expected.dead_lettered, f"the oracle would have taken it: {answer}"
        check_words(answer)
    elif isinstance(answer, Skip):
        assert expected.skipped, f"the oracle would not have skipped it: {answer}"
    else:
        assert expected.done, f"the oracle would not have applied it: {answer}"
        _check_effects(answer, expected)
    return answer


def check_delivery(raw: bytes) -> SandboxEvent | None:
    """Read `raw` as a delivery to a sink; None if it is none, and nothing but ValueError says so.

    What is one stays the same when it is written and read again.
    """
    try:
        event = SandboxEvent.from_bytes(raw)
    except ValueError as error:
        refusal = str(error)
    else:
        assert SandboxEvent.from_bytes(event.to_bytes()) == event
        return event
    assert refusal.isprintable(), refusal
    assert len(refusal) < 400, refusal
    return None


def check_words(bad: Bad) -> None:
    """Fail unless what is said of a bad entry is short and safe in a log and a terminal."""
    for word, most in ((bad.field, 100), (bad.value, 80), (bad.reason, 120), (str(bad), 300)):
        assert word.isprintable(), f"does not print: {word!r}"
        assert len(word) <= most, f"{len(word)} characters, over {most}: {word}"
    assert bad.field, "no field"
    assert bad.reason, "no reason"


def nesting(payload: bytes) -> int:
    """How many levels deep the brackets outside strings go."""
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(payload):
        if match[0] in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in (b"}", b"]"):
            depth -= 1
    return deepest


def oracle_entries(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same entries, for the oracle: what is nested too deep is a plainly bad entry in them."""
    for entry_id, payload in entries:
        too_deep = payload is not None and nesting(payload) > NESTING_MAX
        yield entry_id, b"" if too_deep else payload


def _expected(payload: bytes | None, source_id: EntryId) -> Outcome:
    """What the oracle makes of it where its capsule has a row: then no team is missing."""
    entries = list(oracle_entries([(str(source_id), payload)]))
    with room_to_recurse():
        try:
            capsule = _uuid("cl-", _decode(entries[0][1])["resource"]["id"])
        except (BadEntryError, KeyError):
            capsule = None
        rows = {} if capsule is None else {capsule: Row("running", OWN_TEAM)}
        return replay(rows, entries)


def _check_effects(answer: CapsuleEvent, expected: Outcome) -> None:
    if answer.succeeded:
        event = sandbox_event(answer, now=NOW)
        deliveries = expected.deliveries[answer.capsule_id]
        assert [(one.delivery_id, one.type, one.team_id, one.metadata) for one in deliveries] == [
            (event.delivery_id, event.type, event.team_id, dict(event.metadata))
        ]
        assert check_delivery(event.to_bytes()) == replace(event, metadata=dict(event.metadata))
        return
    assert not expected.deliveries
    assert len(expected.audit) == answer.audit_needed
    for row in expected.audit:
        assert row.team_id == (answer.team_id or OWN_TEAM)
        assert row.action == answer.verb.value
        assert row.metadata["reason"] == (answer.reason or f"{answer.verb.value}_failed")
        assert row.metadata.get("error", "") == answer.error


@contextmanager
def room_to_recurse() -> Iterator[None]:
    """Let the oracle's parser go as deep as ours may; it recurses."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * NESTING_MAX)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
