from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.events import CapsuleEvent, EntryId, SandboxEvent, Verb, sandbox_event

NOW = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
CAPSULE = UUID(int=36)
TEAM = UUID(int=7)
DELIVERY = SandboxEvent("5-1", CAPSULE, TEAM, "created", NOW, {"host_ip": "10.0.0.1"})

U64 = st.integers(0, 2**64 - 1)
PLAIN_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(left=st.builds(EntryId, U64, U64), right=st.builds(EntryId, U64, U64))
def test_entry_ids_survive_the_way_to_text_and_order_by_time_then_number(
    left: EntryId, right: EntryId
) -> None:
    assert EntryId.parse(str(left)) == EntryId.parse(str(left).encode()) == left
    assert (left < right) == (left.ms < right.ms or (left.ms == right.ms and left.seq < right.seq))


def test_entry_ids_order_as_numbers_not_as_text() -> None:
    ordered = ["0-0", "0-1", "9-10", "10-2", "10-10", "100-0"]
    assert [str(e) for e in sorted(map(EntryId.parse, reversed(ordered)))] == ordered
    assert f"{EntryId(5, 1)}" == "5-1"


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "-", "5-", "-5", "5-1-1", "5-*", "$", "+5-1", "5--1", "-5-1", "5_0-1", " 5-1"),
        *("5-1\n", "05-1", "5-01", "٥-1", "5-1\0", "5.0-1", b"5-1\xff", b"\xff", b"5"),
        *(f"{2**64}-0", f"0-{2**64}", "9" * 5_000 + "-0", b"9" * 5_000 + b"-0"),
    ],
)
def test_what_redis_would_not_write_is_no_entry_id(text: str | bytes) -> None:
    with pytest.raises(ValueError) as raised:
        EntryId.parse(text)
    assert len(str(raised.value)) < 150
    assert str(raised.value).isprintable()


def test_each_verb_has_the_names_of_the_contract() -> None:
    assert {verb.event_name: verb.hook_type for verb in Verb} == {
        "capsule.create": "created",
        "capsule.resume": "resumed",
        "capsule.pause": "paused",
        "capsule.destroy": "destroyed",
    }


def capsule_event(timestamp: str) -> CapsuleEvent:
    return CapsuleEvent(
        *(EntryId(5, 1), Verb.PAUSE, True, CAPSULE.bytes, "", timestamp, {"a": "b"}, "")
    )


def test_a_sink_gets_the_source_id_as_delivery_id_and_the_events_own_time() -> None:
    assert sandbox_event(capsule_event("2026-02-03T05:00:00+01:00"), now=NOW) == SandboxEvent(
        delivery_id="5-1",
        capsule_id=CAPSULE,
        team_id=None,
        type="paused",
        occurred_at=datetime(2026, 2, 3, 4, tzinfo=UTC),
        metadata={"a": "b"},
    )


@pytest.mark.parametrize("timestamp", ["", "yesterday", "2026-02-03", "2026-02-30T00:00:00Z"])
def test_now_stands_in_for_a_time_that_does_not_parse(timestamp: str) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    delivery = sandbox_event(capsule_event(timestamp), now=elsewhere)
    assert delivery.occurred_at == NOW
    assert delivery.occurred_at.tzinfo is UTC


@pytest.mark.parametrize("tz", [None, timezone(timedelta(hours=1))])
def test_a_delivery_knows_only_utc(tz: timezone | None) -> None:
    with pytest.raises(ValueError, match="UTC"):
        SandboxEvent("5-1", CAPSULE, TEAM, "created", NOW.replace(tzinfo=tz), {})


def test_a_delivery_is_written_with_textual_ids_and_rfc_3339() -> None:
    assert json.loads(DELIVERY.to_bytes()) == {
        "delivery_id": "5-1",
        "capsule_id": "cl-" + "0" * 23 + "10",
        "team_id": "team-" + "0" * 24 + "7",
        "type": "created",
        "occurred_at": "2026-02-03T04:05:06.000789Z",
        "metadata": {"host_ip": "10.0.0.1"},
    }


@given(
    delivery=st.builds(
        SandboxEvent,
        delivery_id=PLAIN_TEXTS.filter(bool),
        capsule_id=st.uuids(),
        team_id=st.none() | st.uuids(),
        type=st.sampled_from(["created", "paused", "resumed", "destroyed"]),
        occurred_at=st.datetimes(timezones=st.just(UTC)),
        metadata=st.dictionaries(PLAIN_TEXTS, PLAIN_TEXTS),
    )
)
def test_every_delivery_survives_the_way_to_bytes_and_back(delivery: SandboxEvent) -> None:
    assert SandboxEvent.from_bytes(delivery.to_bytes()) == delivery


WRONG: dict[str, tuple[object, ...]] = {
    "delivery_id": (None, "", 5),
    "capsule_id": (None, "", 5, str(CAPSULE), "team-" + "0" * 25),
    "team_id": ("team-", 5, [], "cl-" + "0" * 25),
    "type": (None, "", "create", "Created", 5, ["created"]),
    "occurred_at": (None, "", 5, "now", "2026-02-03T04:05:06"),
    "metadata": ("", [], {"a": 5}, {"a": {}}),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_delivery_with_any_field_wrong_is_refused(field: str) -> None:
    whole: dict[str, Any] = orjson.loads(DELIVERY.to_bytes())
    for value in WRONG[field]:
        with pytest.raises(ValueError):
            SandboxEvent.from_bytes(orjson.dumps({**whole, field: value}))


@given(raw=st.binary(max_size=100))
def test_garbage_is_refused_as_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):
        SandboxEvent.from_bytes(raw)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_object_of_a_delivery_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        SandboxEvent.from_bytes(raw)
    with pytest.raises(ValueError):
        SandboxEvent.from_bytes(DELIVERY.to_bytes()[:-1])
