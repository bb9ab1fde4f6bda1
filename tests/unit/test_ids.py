from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.ids import (
    InvalidIdError,
    excerpt,
    format_capsule_id,
    format_host_id,
    format_team_id,
    parse_capsule_id,
    parse_capsule_key,
    parse_host_id,
    parse_team_id,
)
from tests.event_log import textual_id

Parse = Callable[[str], UUID]
Format = Callable[[UUID], str]

KINDS: dict[str, tuple[Parse, Format]] = {
    "cl-": (parse_capsule_id, format_capsule_id),
    "team-": (parse_team_id, format_team_id),
    "host-": (parse_host_id, format_host_id),
}
LARGEST = "f5lxx1zz5pnorynqglhzmsp33"  # 2**128 - 1
TOO_LARGE = "f5lxx1zz5pnorynqglhzmsp34"


@pytest.mark.parametrize("prefix", KINDS)
@given(uuid=st.uuids())
@example(uuid=UUID(int=0))
@example(uuid=UUID(int=2**128 - 1))
def test_every_uuid_survives_the_way_to_text_and_back(prefix: str, uuid: UUID) -> None:
    parse, form = KINDS[prefix]
    text = form(uuid)
    assert text == textual_id(prefix, uuid)
    assert parse(text) == uuid


@given(left=st.uuids(), right=st.uuids())
def test_ids_sort_as_text_as_they_sort_as_uuids(left: UUID, right: UUID) -> None:
    assert (format_capsule_id(left) < format_capsule_id(right)) == (left < right)


def test_the_digits_are_the_big_endian_number() -> None:
    assert parse_capsule_id("cl-" + "0" * 23 + "10") == UUID(int=36)
    assert format_team_id(UUID(int=36**2 + 35)) == "team-" + "0" * 22 + "10z"
    assert parse_host_id("host-" + LARGEST) == UUID(int=2**128 - 1)


@pytest.mark.parametrize("prefix", KINDS)
@pytest.mark.parametrize(
    "digits",
    [
        pytest.param("", id="nothing"),
        pytest.param("1" * 24, id="too short"),
        pytest.param("1" * 26, id="too long"),
        pytest.param("1" * 100_000, id="far too long"),
        pytest.param("A" + "1" * 24, id="capital"),
        pytest.param("1_" + "1" * 23, id="underscore"),
        pytest.param("+" + "1" * 24, id="plus"),
        pytest.param("-" + "1" * 24, id="minus"),
        pytest.param(" " + "1" * 24, id="blank before"),
        pytest.param("1" * 24 + " ", id="blank after"),
        pytest.param("1" * 25 + "\n", id="line end after all digits"),
        pytest.param("1" * 24 + "\n", id="line end for a digit"),
        pytest.param("1" * 24 + "\0", id="NUL"),
        pytest.param("١" + "1" * 24, id="arabic digit"),
        pytest.param("１" + "1" * 24, id="wide digit"),
        pytest.param("ſ" + "1" * 24, id="letter that folds to s"),
        pytest.param("\ud800" + "1" * 24, id="lone surrogate"),
        pytest.param(TOO_LARGE, id="one over 128 bits"),
        pytest.param("z" * 25, id="far over 128 bits"),
    ],
)
def test_anything_but_25_digits_up_to_128_bits_is_refused(prefix: str, digits: str) -> None:
    with pytest.raises(InvalidIdError) as raised:
        KINDS[prefix][0](prefix + digits)
    message = str(raised.value)
    assert repr(prefix) in message
    assert len(message) < 160
    assert message.isprintable()


@pytest.mark.parametrize("prefix", KINDS)
@pytest.mark.parametrize("other", ["", "cl", "CL-", "cl_", "cl--", " cl-", "cl-", "team-", "host-"])
def test_another_prefix_is_refused(prefix: str, other: str) -> None:
    if prefix == other:
        return
    with pytest.raises(InvalidIdError):
        KINDS[prefix][0](other + "1" * 25)


@pytest.mark.parametrize("value", [None, 5, b"cl-" + b"1" * 25, ["cl-"], UUID(int=5), 1e300])
def test_only_text_is_taken(value: object) -> None:
    with pytest.raises(InvalidIdError):
        parse_capsule_id(value)  # type: ignore[arg-type]


@given(text=st.one_of(st.text(), st.from_regex(r"cl-[0-9a-z]{25}"), st.from_regex(r"cl-\w{25}")))
def test_what_is_taken_is_the_one_form_of_its_uuid(text: str) -> None:
    try:
        uuid = parse_capsule_id(text)
    except InvalidIdError:
        with pytest.raises(InvalidIdError):
            parse_capsule_key(text)
        return
    assert parse_capsule_key(text) == uuid.bytes
    assert format_capsule_id(uuid) == text


@given(value=st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.none()))
@example(value="\x1b[2J\u202e" * 50)
@example(value="\ud800")
@example(value="x" * 10**6)
@example(value=10**79)
def test_an_excerpt_is_one_short_printable_line(value: object) -> None:
    shown = excerpt(value)
    assert shown.isprintable()
    assert len(shown) <= 80


def test_an_excerpt_of_a_value_nested_too_deep_for_repr_names_it() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    assert excerpt(deep) == "an array of 1 items"
    assert excerpt({"deep": deep}) == "an object of 1 fields"
