from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.strict_json import MalformedError, parse_object, parse_rfc3339

KEYS = ["a", "b", "", '"', '":', "\\", "{", "}", "é", "\U0001f4a5", " :", "\0"]
BLANKS = st.sampled_from(["", "", "", " ", "\t\r\n "])


def _escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)) + '"'


TEXTS = st.one_of(
    st.sampled_from(KEYS).map(json.dumps),
    st.sampled_from(KEYS).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(KEYS).map(_escaped),
)


def _objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.builds(
        lambda key, before, after, value: f"{key}{before}:{after}{value}",
        *(TEXTS, BLANKS, BLANKS, values),
    )
    return st.lists(pair, max_size=4).map(lambda pairs: "{" + ",".join(pairs) + "}")


def _arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=3).map(lambda items: "[" + " ,".join(items) + "]")


#: JSON texts of one object, whose keys and strings are as confusing as JSON allows.
OBJECT_TEXTS = _objects(
    st.recursive(
        st.one_of(TEXTS, st.sampled_from(["null", "5"])),
        lambda values: st.one_of(_objects(values), _arrays(values)),
        max_leaves=8,
    )
)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


@settings(max_examples=1_000)
@given(text=OBJECT_TEXTS)
def test_duplicate_keys_are_found_exactly_where_a_parser_that_sees_each_pair_finds_them(
    text: str,
) -> None:
    try:
        expected = json.loads(text, object_pairs_hook=_distinct)
    except ValueError:
        with pytest.raises(MalformedError):
            parse_object(text.encode())
    else:
        assert parse_object(text.encode()) == expected


def test_a_duplicate_key_is_named() -> None:
    with pytest.raises(MalformedError) as raised:
        parse_object(b'{"x":"{\\"twice\\":1}","y":{"twice":1,"z":[{"twice":1}],"twice":2}}')
    assert raised.value.value == "'twice'"


@pytest.mark.parametrize("text", ['":', '"x": 1, "x": 2', "\\", '{"a":1,"a":2}', '"}', '\\":'])
def test_text_that_looks_like_keys_is_no_duplicate(text: str) -> None:
    tree = {"a": text, text: [{text: text}, {text: text}]}
    assert parse_object(json.dumps(tree).encode()) == tree


@pytest.mark.parametrize("inner", [b"1", b'"\\":"', b'{"x":1,"x":1}'])
def test_the_verdict_on_deep_nesting_does_not_depend_on_the_callers_stack(inner: bytes) -> None:
    payload = b'{"a":' * 1_020 + inner + b"}" * 1_020

    def accepted(levels: int) -> bool:
        if levels:
            return accepted(levels - 1)
        try:
            return bool(parse_object(payload))
        except MalformedError:
            return False

    assert accepted(0) == accepted(600) == (b"x" not in inner)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-03T04:05:06Z", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-02-03T04:05:06+05:30", datetime(2026, 2, 2, 22, 35, 6, tzinfo=UTC)),
        ("2026-02-03T04:05:06-00:00", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-02-03T04:05:06.5Z", datetime(2026, 2, 3, 4, 5, 6, 500_000, tzinfo=UTC)),
        ("2026-02-03T04:05:06.123456789Z", datetime(2026, 2, 3, 4, 5, 6, 123_456, tzinfo=UTC)),
        ("2024-02-29T23:59:59Z", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_rfc_3339_times_are_read_as_utc(text: str, moment: datetime) -> None:
    parsed = parse_rfc3339(text)
    assert parsed == moment
    assert parsed is not None
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2026-02-03", "2026-02-03T04:05:06", "2026-02-03T04:05Z", "20260203T040506Z"),
        *("2026-02-03 04:05:06Z", "2026-W06-2T04:05:06Z", "2026-02-03T04:05:06+0530"),
        *("2026-02-03T04:05:06+05", "2026-02-03T04:05:06,5Z", "2026-02-03T04:05:06.Z"),
        *("2026-02-30T04:05:06Z", "2025-02-29T04:05:06Z", "2026-13-03T04:05:06Z"),
        *("2026-02-03T24:00:00Z", "2026-02-03T04:05:60Z", "2026-02-03T04:05:06+24:00"),
        *(
            "2026-02-03T04:05:06+05:30:15",
            "2026-02-03T04:05:06+05:60",
            "0000-02-03T04:05:06Z",
            "0001-01-01T00:00:00+01:00",
        ),
        *("9999-12-31T23:59:59-01:00", "2026-02-03T04:05:06Z\n", " 2026-02-03T04:05:06Z"),
        *("２026-02-03T04:05:06Z", "2026-02-03t04:05:06z", "2026-02-03T04:05:06Z[UTC]"),
    ],
)
def test_other_times_are_none(text: str) -> None:
    assert parse_rfc3339(text) is None


@given(
    moment=st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001
        max_value=datetime(9998, 12, 31),  # noqa: DTZ001
        timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
    )
)
def test_every_time_written_by_rfc_3339_is_read_back(moment: datetime) -> None:
    assert parse_rfc3339(moment.isoformat()) == moment


@given(text=st.text())
def test_no_text_makes_reading_a_time_raise(text: str) -> None:
    parse_rfc3339(text)
