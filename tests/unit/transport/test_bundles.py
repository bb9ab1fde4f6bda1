"""Messages that share an entry come out as they went in, and end one by one."""

from __future__ import annotations

from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.transport import Record
from streams.transport.bundles import (
    Call,
    as_messages,
    bundle_fields,
    bundles,
    messages_of,
    stream_id_of,
)
from streams.transport.entry import Entry, message_fields
from streams.transport.ledger import Ledger

HEADERS = st.sampled_from([{}, {"a": b"1"}, {"a": b"\xff", "b": b"2"}])
RECORDS = st.lists(
    st.builds(
        Record,
        value=st.none() | st.binary(max_size=3),
        key=st.none() | st.binary(max_size=2),
        headers=HEADERS,
        partition=st.integers(0, 3),
    ),
    max_size=60,
)
CAPSULES = TP("capsules", 0)


def appended(call: Call) -> list[tuple[int, int, list[bytes]]]:
    """What the script would append: partition, number of messages, fields."""
    found = []
    rest: list[Any] = list(call.arguments)
    assert len(set(call.partitions)) == len(call.partitions)
    while rest:
        place, partition, count, width, *rest = rest
        assert call.partitions[place] == partition
        found.append((partition, count, rest[:width]))
        rest = rest[width:]
    return found


@given(records=RECORDS, bundle_max=st.integers(2, 7))
def test_each_partition_has_its_messages_in_order_whatever_shares_an_entry(
    records: list[Record], bundle_max: int
) -> None:
    found: dict[int, list[dict[bytes, bytes]]] = {}
    for call in bundles(records, partition=lambda r: r.partition or 0, bundle_max=bundle_max):
        for partition, count, fields in appended(call):
            messages = as_messages(b"1-0", fields)
            assert messages == messages_of(
                b"1-0", dict(zip(fields[::2], fields[1::2], strict=True))
            )
            assert len(messages) == count <= bundle_max
            found.setdefault(partition, []).extend(dict(message) for _, message in messages)
    wanted: dict[int, list[dict[bytes, bytes]]] = {}
    for record in records:
        of_partition = wanted.setdefault(record.partition or 0, [])
        of_partition.append(message_fields(record.key, record.value, record.headers))
    assert found == wanted


def test_no_call_is_for_very_much_and_no_entry_is() -> None:
    many = [Record(b"v", b"k")] * 2_500
    calls = [appended(c) for c in bundles(many, partition=lambda _: 0, bundle_max=64)]
    assert [sum(count for _, count, _ in call) for call in calls] == [1_000, 1_000, 500]
    large = [Record(b"v" * 10_000, b"k")] * 4
    [call] = [appended(c) for c in bundles(large, partition=lambda _: 0, bundle_max=64)]
    assert [count for _, count, _ in call] == [2, 2]
    huge = [Record(b"v" * 700_000, b"k")] * 3
    assert len(list(bundles(huge, partition=lambda _: 0, bundle_max=64))) == 2


def test_what_redis_takes_no_bytes_for_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(TypeError, match="int in a message"):
        list(bundles([Record(1)], partition=lambda _: 0, bundle_max=2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        [b"n", b"2", b"b", b"no MessagePack"],
        [b"n", b"2", b"b", b"\x90"],
        [b"n", b"1", b"b", b"\x91\x80"],
        [b"n", b"2", b"b", b"\x92\x01\x02"],
        [b"b", b"x", b"n", b"2"],
    ],
)
def test_what_looks_like_several_messages_and_is_not_is_one(fields: list[bytes]) -> None:
    assert list(as_messages(b"1-0", fields)) == [
        (b"1-0", dict(zip(fields[::2], fields[1::2], strict=True)))
    ]


def entry_of(size: int) -> list[bytes]:
    return bundle_fields([{b"v": b"%d" % n} for n in range(size)])


def opened() -> Ledger:
    ledger = Ledger(capacity=1_000, read_size=500, on_room=lambda: None)
    ledger.open(CAPSULES)
    return ledger


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), data=st.data())
def test_an_entry_is_acknowledged_with_the_last_of_its_messages(
    sizes: list[int], data: st.DataObject
) -> None:
    ledger = opened()
    delivered = [(b"%d-0" % n, entry_of(size)) for n, size in enumerate(sizes)]
    entries = ledger.admit(CAPSULES, delivered)
    assert len(entries) == sum(sizes)
    left = {stream_id: size for (stream_id, _), size in zip(delivered, sizes, strict=True)}
    for entry in data.draw(st.permutations(entries)):
        stream_id = stream_id_of(entry.id)
        left[stream_id] -= 1
        [ids] = ledger.settle([entry]).values()
        assert ids == ([] if left[stream_id] else [stream_id])
        assert ledger.settle([entry]) == {}
        # Redelivered meanwhile, it is neither new nor lost.
        assert ledger.admit(CAPSULES, delivered) == []
        assert ledger.lose(CAPSULES, [stream_id]) == []
        assert [ledger.size(CAPSULES, i) for i, _ in delivered] == sizes
    ledger.acknowledged(CAPSULES, [stream_id for stream_id, _ in delivered])
    assert ledger.partly_settled(CAPSULES) == {}
    assert ledger.in_hand(CAPSULES) == 0


@given(size=st.integers(2, 6), data=st.data())
def test_who_is_next_gets_what_is_left_of_an_entry_and_ends_it(
    size: int, data: st.DataObject
) -> None:
    first, second = opened(), opened()
    delivered = [(b"1-0", entry_of(size))]
    entries = first.admit(CAPSULES, delivered)
    done = data.draw(st.lists(st.sampled_from(entries), unique=True, max_size=size - 1))
    first.settle(done)
    places = first.partly_settled(CAPSULES)
    assert {place for of_entry in places.values() for place in of_entry} == {
        entry.id.partition(b"/")[2] for entry in done
    }
    second.recall(CAPSULES, places)
    left = second.admit(CAPSULES, delivered)
    assert [e.id for e in left] == [e.id for e in entries if e not in done]
    assert second.partly_settled(CAPSULES) == {}  # nothing that Redis does not know
    assert second.settle(left) == {CAPSULES: [b"1-0"]}
    assert second.size(CAPSULES, b"1-0") == size
    assert second.uncounted(CAPSULES) == len(left)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), data=st.data())
def test_what_is_done_with_and_redis_does_not_count_is_known_to_the_message(
    sizes: list[int], data: st.DataObject
) -> None:
    ledger = opened()
    delivered = [(b"%d-0" % n, entry_of(size)) for n, size in enumerate(sizes)]
    left = {stream_id: set[bytes]() for stream_id, _ in delivered}
    entries = ledger.admit(CAPSULES, delivered)
    for entry in entries:
        left[stream_id_of(entry.id)].add(entry.id)
    whole = {stream_id: len(ids) for stream_id, ids in left.items()}
    #: By entry, as Redis knows it: how many of its messages are done with.
    known = dict.fromkeys(left, 0)
    for entry in data.draw(st.permutations(entries)):
        ledger.settle([entry])
        left[stream_id_of(entry.id)].discard(entry.id)
        step = data.draw(st.sampled_from(["nothing", "note", "acknowledge"]))
        if step == "note":
            places = ledger.partly_settled(CAPSULES)
            ledger.noted(CAPSULES, places)
            known |= {stream_id: len(of_entry) for stream_id, of_entry in places.items()}
        elif step == "acknowledge":
            complete = [stream_id for stream_id, ids in left.items() if not ids]
            ledger.acknowledged(CAPSULES, complete)
            known |= {stream_id: whole[stream_id] for stream_id in complete}
        done = sum(whole[stream_id] - len(ids) for stream_id, ids in left.items())
        assert ledger.uncounted(CAPSULES) == done - sum(known.values())


def test_a_note_that_leaves_nothing_of_an_entry_is_not_believed() -> None:
    ledger = opened()
    ledger.recall(CAPSULES, {b"1-0": frozenset({b"0", b"1"})})
    entries: list[Entry] = ledger.admit(CAPSULES, [(b"1-0", entry_of(2))])
    assert [entry.value for entry in entries] == [b"0", b"1"]
