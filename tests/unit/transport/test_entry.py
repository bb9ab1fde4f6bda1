"""A message written into an entry and read back is the same; so are the options validated."""

from __future__ import annotations

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.transport import Entry, TransportOptions
from streams.transport.entry import encode_fields

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def read_back(fields: list[bytes]) -> Entry:
    assert len(fields) % 2 == 0
    assert fields, "XADD takes no entry without a field"
    return Entry(TP("t", 0), b"1-0", dict(zip(fields[::2], fields[1::2], strict=True)), 1)


@given(
    key=st.none() | st.binary(),
    value=st.none() | st.binary(),
    headers=st.none() | st.dictionaries(NAMES, st.binary()),
)
def test_any_message_is_read_back_as_it_was_written(
    key: bytes | None, value: bytes | None, headers: dict[str, bytes] | None
) -> None:
    entry = read_back(encode_fields(key, value, headers))
    assert (entry.key, entry.value, entry.headers()) == (key, value, headers or {})
    for name, content in (headers or {}).items():
        assert entry.header(name) == content
    pairs = list((headers or {}).items())
    assert read_back(encode_fields(key, value, pairs)).fields == entry.fields


@pytest.mark.parametrize("bad", [None, 1, 1.5, True, ["x"], {}])
def test_what_redis_takes_no_bytes_for_is_refused_before_it_is_sent(bad: object) -> None:
    with pytest.raises(TypeError, match=type(bad).__name__):
        encode_fields(b"k", b"v", {"a": bad})  # type: ignore[dict-item]


@given(ms=st.integers(0, 2**63), seq=st.integers(0, 2**63))
def test_the_time_of_an_entry_is_in_its_id(ms: int, seq: int) -> None:
    assert Entry(TP("t", 0), b"%d-%d" % (ms, seq), {}, 1).timestamp_s == ms / 1000


def test_less_room_than_one_read_brings_is_refused() -> None:
    TransportOptions(prefetch_entries=10, fetch_count=10)
    with pytest.raises(ValueError, match="prefetch_entries: 9"):
        TransportOptions(prefetch_entries=9, fetch_count=10)


def test_the_url_of_the_options_is_not_shown() -> None:
    assert "secret" not in repr(TransportOptions(url="redis://user:secret@host/0"))
