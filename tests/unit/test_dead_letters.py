"""A dead letter travels whole, and its batches fit into statements."""

from __future__ import annotations

import ast
from pathlib import Path

import orjson
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.dead_letters.record import LETTER, DeadLetter, batches, letter_id, rows
from streams.outcomes import Dead, Reason
from streams.transport import Entry

ROOT = Path(__file__).parent.parent.parent
BYTES = st.binary(max_size=40)
DEATHS = st.builds(
    Dead,
    reason=st.sampled_from(Reason),
    error=st.text(max_size=40).filter(lambda text: "\ud800" not in text),
    attempts=st.integers(1, 10**6),
    first_at_s=st.none() | st.floats(0, 4e9),
)


def source_entry(fields: dict[bytes, bytes]) -> Entry:
    return Entry(TP("wrenn:events", 0), b"5-1", fields, 1)


def told(letter: DeadLetter) -> dict[str, object]:
    return {name: getattr(letter, name) for name in DeadLetter.__dataclass_fields__}


def carried(letter: DeadLetter) -> DeadLetter:
    """The letter as it comes out of its topic."""
    record = letter.record()
    headers = dict(record.headers or {})
    fields = {b"h:" + name.encode(): value for name, value in headers.items()}
    if record.value is not None:
        fields[b"v"] = record.value
    return DeadLetter.from_entry(Entry(TP("dead-letters", 0), b"9-0", fields, 1))


@given(fields=st.dictionaries(BYTES | st.just(b"payload"), BYTES), dead=DEATHS)
def test_a_letter_comes_out_of_its_topic_as_it_went_in(
    fields: dict[bytes, bytes], dead: Dead
) -> None:
    letter = DeadLetter.of_source(source_entry(fields), "route", dead)
    assert told(carried(letter)) == told(letter)
    assert letter.payload == fields.get(b"payload")
    others = {n: v for n, v in fields.items() if n not in (b"payload", b"replay-of")}
    assert letter.fields == others


@given(
    header=st.none() | BYTES | st.recursive(st.none() | st.text(), st.lists).map(orjson.dumps),
    value=st.none() | BYTES,
)
def test_a_letter_without_a_description_is_kept_all_the_same(
    header: bytes | None, value: bytes | None
) -> None:
    fields = {b"h:letter": header or b"", b"h:source-id": b"7-7"} | ({b"v": value} if value else {})
    letter = DeadLetter.from_entry(Entry(TP("dead-letters", 0), b"9-0", fields, 1))
    assert (letter.source_id, letter.entry_id, letter.reason) == ("7-7", "9-0", "bad_entry")
    assert letter.payload == (value or None)
    assert LETTER == "letter"


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"1-0", b"1-1", b"2-0"]),
            st.sampled_from(["none", "empty", "huge"]),
            st.sampled_from([None, b"1", b"2"]),
        ),
        max_size=12,
    )
)
def test_no_statement_has_two_letters_for_one_row_or_more_than_it_can_take(
    drawn: list[tuple[bytes, str, bytes | None]],
) -> None:
    payloads = {"none": None, "empty": b"", "huge": b"x" * 1_500_000}
    letters = []
    for source_id, size, replay_of in drawn:
        payload = payloads[size]
        fields = {b"payload": payload, b"replay-of": replay_of}
        entry = Entry(
            TP("wrenn:events", 0), source_id, {k: v for k, v in fields.items() if v is not None}, 1
        )
        letters.append(DeadLetter.of_source(entry, "route", Dead(Reason.BAD_ENTRY, "bad")))
    parts = batches(letters)
    assert [letter for part in parts for letter in part] == letters
    for part in parts:
        assert len({letter.identity for letter in part}) == len(part)
        assert len(part) == 1 or sum(len(letter.payload or b"") for letter in part) < 4_200_000
        assert len(orjson.loads(rows(part))) == len(part)


def test_only_a_plain_number_names_a_letter() -> None:
    assert letter_id(b"17") == 17
    for text in (None, b"", b"-1", b"1.5", b" 1", b"x", "١".encode(), b"9" * 30):
        assert letter_id(text) is None


def test_nothing_settles_but_the_stage() -> None:
    #: A retired sink has no stage: what is left of it goes in the transaction with its letter.
    may = {"agents/stage.py", "streams/sinks/retirement.py"}
    settling = [
        f"{path.name}:{node.lineno}"
        for package in ("agents", "streams")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in may and "transport" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("settle", "acknowledge", "xack")
    ]
    assert settling == []
