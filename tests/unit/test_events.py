from __future__ import annotations

import json
import tracemalloc
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.events import Bad, CapsuleEvent, EntryId, Skip, SkipRule, Verb, read_event

SOURCE = EntryId(1_700_000_000_000, 3)
CAPSULE_ID = "cl-" + "0" * 23 + "10"
TEAM_ID = "team-" + "0" * 24 + "7"


def fields(**changed: object) -> dict[str, Any]:
    whole = {
        "event": "capsule.create",
        "outcome": "success",
        "timestamp": "2026-02-03T04:05:06Z",
        "team_id": TEAM_ID,
        "actor": {"type": "system", "id": "host-1", "name": "a host"},
        "resource": {"id": CAPSULE_ID, "type": "sandbox"},
        "metadata": {"host_ip": "10.0.0.1"},
        "error": "",
    }
    return {**whole, **changed}


def read(**changed: object) -> CapsuleEvent | Skip | Bad:
    return read_event(SOURCE, json.dumps(fields(**changed)).encode())


def bad_field(answer: CapsuleEvent | Skip | Bad) -> str:
    assert isinstance(answer, Bad), answer
    line = str(answer)
    assert line.isprintable()
    assert line.startswith(f"{answer.field}: {answer.reason}")
    assert len(answer.value) <= 80
    assert len(line) < 300
    return answer.field


def test_a_whole_event_is_read() -> None:
    assert read() == CapsuleEvent(
        source_id=SOURCE,
        verb=Verb.CREATE,
        succeeded=True,
        capsule_key=UUID(int=36).bytes,
        team=TEAM_ID,
        timestamp="2026-02-03T04:05:06Z",
        metadata={"host_ip": "10.0.0.1"},
        error="",
    )


@pytest.mark.parametrize("absent", [{}, {"x": None}])
def test_absent_and_null_fields_are_empty(absent: dict[str, None]) -> None:
    optional = ("outcome", "timestamp", "team_id", "metadata", "error")
    whole = {k: v for k, v in fields(actor={"type": "system"}).items() if k not in optional}
    if absent:
        whole |= dict.fromkeys(optional)
    event = read_event(SOURCE, orjson.dumps(whole))
    assert isinstance(event, CapsuleEvent)
    assert (event.succeeded, event.team_id, event.timestamp) == (False, None, "")
    assert (event.metadata, event.error, event.host_ip, event.reason) == ({}, "", "", "")


@pytest.mark.parametrize("empty", [b"{}", b'{"event":null,"actor":null,"resource":null}', b" {} "])
def test_an_empty_object_is_another_event(empty: bytes) -> None:
    assert read_event(SOURCE, empty) == Skip(SkipRule.OTHER_EVENT)


def test_a_null_in_metadata_is_an_empty_text() -> None:
    event = read(metadata={"host_ip": None, "reason": "why"})
    assert isinstance(event, CapsuleEvent)
    assert event.metadata == {"host_ip": "", "reason": "why"}
    assert (event.host_ip, event.reason) == ("", "why")


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    actor = {"type": "system", "type2": 5}
    assert read(actor=actor, extra=[{"extra": 1}, {"extra": 2}], Event=5, z=None) == read()


@pytest.mark.parametrize("team", ["team-1", "TEAM-" + "0" * 25, CAPSULE_ID, "", "\0"])
def test_a_team_that_does_not_parse_is_no_team(team: str) -> None:
    event = read(team_id=team)
    assert isinstance(event, CapsuleEvent)
    assert event.team_id is None


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("outcome", ["success", "error", "", None, "Success", "success "])
def test_only_a_failed_pause_or_destroy_has_no_effect(verb: Verb, outcome: str | None) -> None:
    answer = read(event=verb.event_name, outcome=outcome)
    if outcome != "success" and verb in {Verb.PAUSE, Verb.DESTROY}:
        assert answer == Skip(SkipRule.NO_EFFECT)
    else:
        assert isinstance(answer, CapsuleEvent)
        assert (answer.verb, answer.succeeded) == (verb, outcome == "success")


def test_a_failure_needs_an_audit_row_unless_it_was_a_transient_timeout() -> None:
    def needed(outcome: str, reason: str | None) -> bool:
        event = read(outcome=outcome, metadata={"reason": reason})
        assert isinstance(event, CapsuleEvent)
        return event.audit_needed

    assert needed("error", None)
    assert needed("error", "Transient_timeout")
    assert not needed("error", "transient_timeout")
    assert not needed("success", "host_lost")


@pytest.mark.parametrize(
    "name",
    ["capsule.state.changed", "capsule.", "create", "Capsule.create", "capsule.create ", "host.up"],
)
def test_other_events_are_skipped(name: str) -> None:
    assert read(event=name, resource=None) == Skip(SkipRule.OTHER_EVENT)


@pytest.mark.parametrize("actor", [None, {}, {"type": None}, {"type": "user"}, {"type": "System"}])
def test_other_actors_are_skipped_before_the_capsule_is_looked_at(actor: object) -> None:
    assert read(actor=actor, resource={"id": "?"}) == Skip(SkipRule.OTHER_ACTOR)


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("resource", [None, {}, {"id": "cl-1"}, {"id": TEAM_ID}])
def test_an_event_of_no_capsule_is_bad(verb: Verb, resource: object) -> None:
    assert bad_field(read(event=verb.event_name, outcome="error", resource=resource)) == (
        "resource.id"
    )


TEXTS = ("event", "outcome", "timestamp", "team_id", "error")
NESTED_TEXTS = ("actor.type", "actor.id", "actor.name", "resource.id", "resource.type")
NO_TEXTS: tuple[object, ...] = (0, 1, 5.5, 2**70, True, False, [], ["x"], {}, {"a": "b"})


@pytest.mark.parametrize("field", [*TEXTS, *NESTED_TEXTS, "metadata.host_ip", "metadata.x"])
@pytest.mark.parametrize("value", NO_TEXTS)
def test_a_value_that_is_no_text_is_bad_by_name(field: str, value: object) -> None:
    outer, _, inner = field.partition(".")
    changed = {**fields()[outer], inner: value} if inner else value
    assert bad_field(read(**{outer: changed})) == field
    assert bad_field(read(**{"event": "host.up", outer: changed})) == field


@pytest.mark.parametrize("field", ["actor", "resource", "metadata"])
@pytest.mark.parametrize("value", ["", "x", 0, 5, False, [], [{}]])
def test_a_value_that_is_no_object_is_bad_by_name(field: str, value: object) -> None:
    assert bad_field(read(**{field: value})) == field


def test_a_name_from_outside_is_made_safe() -> None:
    field = bad_field(read(metadata={"\x1b[2J\n" + "k" * 1_000: 5}))
    assert field.startswith("metadata.\\x1b[2J\\n")
    assert len(field) < 100


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"error": "a\0"}, "error"),
        ({"metadata": {"host_ip": "\0"}}, "metadata.host_ip"),
        ({"metadata": {"reason": "a\0b"}}, "metadata.reason"),
        ({"metadata": {"other": "\0"}}, "metadata.other"),
        ({"metadata": {"a\0": "b"}}, "metadata.a\\x00"),
    ],
)
def test_what_postgres_cannot_store_is_bad_by_name(changed: dict[str, object], field: str) -> None:
    assert bad_field(read(**changed)) == field


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    event = read(error="\\u0000")
    assert isinstance(event, CapsuleEvent)
    assert event.error == "\\u0000"


VALID = json.dumps(fields(), separators=(",", ":")).encode()


def with_extra(extra: bytes) -> bytes:
    return VALID[:-1] + b',"extra":' + extra + b"}"


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(None, id="absent"),
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"\0", id="NUL"),
        pytest.param(VALID[:-1], id="cut"),
        pytest.param(VALID + b"x", id="text after"),
        pytest.param(VALID + b"\0", id="NUL after"),
        pytest.param(b"\xef\xbb\xbf" + VALID, id="byte order mark"),
        pytest.param(VALID.decode().encode("utf-16"), id="utf-16"),
        pytest.param(VALID.replace(b"create", b"\xff"), id="invalid utf-8"),
        pytest.param(VALID.replace(b"a host", b"\xed\xa0\x80"), id="surrogate in utf-8"),
        pytest.param(VALID.replace(b"a host", b"\xc0\x80"), id="overlong utf-8"),
        pytest.param(VALID.replace(b"a host", b"\\ud800"), id="lone surrogate"),
        pytest.param(VALID.replace(b"a host", b"\\udc00\\ud800"), id="swapped surrogates"),
        pytest.param(VALID.replace(b"a host", b"\n"), id="raw line end in a text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"[" + VALID + b"]", id="array of an event"),
        pytest.param(b'"capsule.create"', id="text"),
        pytest.param(b"5", id="number"),
        pytest.param(with_extra(b"NaN"), id="NaN"),
        pytest.param(with_extra(b"-Infinity"), id="infinity"),
        pytest.param(with_extra(b"1e400"), id="1e400"),
        pytest.param(with_extra(b"9" * 5_000), id="5000 digits"),
        pytest.param(with_extra(b"[" * 10_000 + b"]" * 10_000), id="nested 10000 deep"),
        pytest.param(with_extra(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), id="objects deep"),
        pytest.param(b"[" * 200_000, id="only brackets"),
        pytest.param(VALID[:-1] + b',"event":"capsule.create"}', id="duplicate"),
        pytest.param(VALID[:-1] + b',"event" \t\r\n:"host.up"}', id="duplicate with blanks"),
        pytest.param(VALID[:-1] + b',"\\u0065vent":"host.up"}', id="duplicate, escaped"),
        pytest.param(VALID.replace(b'"type":', b'"type":1,"type":', 1), id="duplicate in actor"),
        pytest.param(with_extra(b'[[{"a":{"b":1,"b":1}}]]'), id="duplicate deep in unknown"),
        pytest.param(with_extra(b'{"":1,"":1}'), id="duplicate empty key"),
    ],
)
def test_what_is_not_one_strict_json_object_is_bad(payload: bytes | None) -> None:
    assert bad_field(read_event(SOURCE, payload)) == "payload"


def test_a_huge_payload_is_refused_unread() -> None:
    junk = b'{"a":' * 20_000_000
    tracemalloc.start()
    try:
        assert bad_field(read_event(SOURCE, junk)) == "payload"
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_limit_on_the_payload_is_the_largest_that_is_read() -> None:
    assert read_event(SOURCE, VALID, payload_max_bytes=len(VALID)) == read()
    assert bad_field(read_event(SOURCE, VALID, payload_max_bytes=len(VALID) - 1)) == "payload"
    assert read_event(SOURCE, VALID.ljust(262_144)) == read()
    assert bad_field(read_event(SOURCE, VALID.ljust(262_145))) == "payload"


@pytest.mark.parametrize("filler", [b'{"a":1},', b'"\\\\":', b"[", b'"', b'":', b"\\u0000"])
def test_the_largest_payload_of_any_junk_takes_bounded_memory(filler: bytes) -> None:
    junk = (b'{"a":[' + filler * 262_144)[:262_144]
    tracemalloc.start()
    try:
        read_event(SOURCE, junk)
        assert tracemalloc.get_traced_memory()[1] < 64_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source_id", [EntryId(2**63, 0), EntryId(0, 2**63), EntryId(-1, 0)])
def test_a_source_id_beyond_64_bits_with_a_sign_is_bad(source_id: EntryId) -> None:
    assert bad_field(read_event(source_id, VALID)) == "id"
    assert isinstance(read_event(EntryId(2**63 - 1, 2**63 - 1), VALID), CapsuleEvent)


@given(payload=st.binary(max_size=200))
def test_no_bytes_make_reading_raise(payload: bytes) -> None:
    assert isinstance(read_event(SOURCE, payload), (CapsuleEvent, Skip, Bad))


@settings(max_examples=500)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 30), st.binary(max_size=8)), max_size=3
    )
)
def test_no_change_to_a_valid_payload_makes_reading_raise(
    cuts: list[tuple[int, int, bytes]],
) -> None:
    payload = VALID
    for at, length, put in cuts:
        payload = payload[:at] + put + payload[at + length :]
    answer = read_event(SOURCE, payload)
    if isinstance(answer, Bad):
        bad_field(answer)
