"""Messages are sent in portions, each partition's in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.transport import Record
from streams.transport.portions import Portion, portions

NAMES = st.sampled_from([{}, {"a": b"1"}, {"a": b"1", "b": b"2"}])
RECORDS = st.lists(
    st.builds(
        Record,
        value=st.binary(max_size=3),
        key=st.binary(min_size=1, max_size=1),
        headers=NAMES,
        partition=st.integers(0, 3),
    ),
    max_size=40,
)


def unpacked(portion: Portion) -> list[tuple[int, dict[bytes, bytes]]]:
    """What the script would append, in the order it would."""
    width, *rest = portion.arguments()
    assert isinstance(width, int)
    names, rest = rest[:width], rest[width:]
    found = []
    while rest:
        stream, count, *rest = rest
        assert isinstance(stream, int)
        assert isinstance(count, int)
        for _ in range(count):
            found.append((stream - 1, dict(zip(names, rest[:width], strict=True))))
            rest = rest[width:]
    return found  # type: ignore[return-value]


@given(records=RECORDS)
def test_each_partition_keeps_its_order(records: list[Record]) -> None:
    sent: list[tuple[int, dict[bytes, bytes]]] = []
    for portion in portions(records, partition=lambda record: record.partition or 0):
        sent += unpacked(portion)
    wanted = [
        (
            record.partition,
            {b"k": record.key, b"v": record.value}
            | {b"h:" + name.encode(): value for name, value in dict(record.headers or {}).items()},
        )
        for record in records
    ]
    assert len(sent) == len(wanted)
    for partition in range(4):
        of_partition = [fields for where, fields in wanted if where == partition]
        assert [fields for where, fields in sent if where == partition] == of_partition


def test_a_portion_is_neither_long_nor_large() -> None:
    many = [Record(b"v", b"k")] * 1_200
    assert [p.size for p in portions(many, partition=lambda _: 0)] == [500, 500, 200]
    large = [Record(b"v" * 700_000, b"k")] * 3
    assert [p.size for p in portions(large, partition=lambda _: 0)] == [2, 1]
