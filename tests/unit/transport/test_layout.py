"""Keys of streams, and the partition of a key: the same everywhere and for ever."""

from __future__ import annotations

import zlib

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.transport import (
    StreamConfig,
    StreamLayout,
    UnknownTopicError,
    UnsupportedError,
    partition_of,
)

#: Pinned: another answer would put the next entry of a key into another stream than the last.
#: The first is the check value of CRC-32: 0xCBF43926.
KNOWN = {
    b"123456789": 6,
    b"": 0,
    b"a": 3,
    b"k": 13,
    b"key-0": 12,
    bytes(16): 5,
    b"\xff" * 16: 10,
    "ü".encode(): 5,
}


def test_the_partitions_of_known_keys() -> None:
    assert {key: partition_of(key, 16) for key in KNOWN} == KNOWN


@given(key=st.binary(), partitions=st.integers(1, 1000))
def test_a_partition_is_one_of_those_there_are(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == zlib.crc32(key) % partitions
    assert 0 <= partition_of(key, partitions) < partitions


@given(partitions=st.integers(2, 16))
def test_keys_spread_over_all_partitions(partitions: int) -> None:
    keys = [n.to_bytes(16, "big") for n in range(100 * partitions)]
    counts = [0] * partitions
    for key in keys:
        counts[partition_of(key, partitions)] += 1
    assert min(counts) > 50


def test_a_topic_of_ours_has_a_stream_per_partition() -> None:
    layout = StreamLayout("{app}:")
    layout.declare("t", 2, StreamConfig())
    assert [stream.key for stream in layout.streams("t")] == [b"{app}:t:0", b"{app}:t:1"]
    assert [stream.tp for stream in layout.streams("t")] == [TP("t", 0), TP("t", 1)]
    assert all(stream.is_ours for stream in layout.streams("t"))
    assert layout.stream(TP("t", 1)).key == b"{app}:t:1"
    assert list(layout.topics()) == ["t"]


def test_a_stream_of_somebody_else_keeps_its_key() -> None:
    layout = StreamLayout("{app}:")
    layout.declare("s", 1, StreamConfig(external_key="wrenn:events"))
    (stream,) = layout.streams("s")
    assert (stream.key, stream.is_ours) == (b"wrenn:events", False)


def test_declaring_again_must_say_the_same() -> None:
    layout = StreamLayout("p:")
    layout.declare("t", 2, StreamConfig())
    layout.declare("t", 2, StreamConfig())
    for partitions, config in ((3, StreamConfig()), (2, StreamConfig(batch=True))):
        with pytest.raises(UnsupportedError, match="topic t"):
            layout.declare("t", partitions, config)
    assert layout.partitions("t") == 2


def test_what_was_looked_up_gives_way_to_what_is_declared() -> None:
    layout = StreamLayout("p:")
    layout.learn("t", 4)
    assert "t" in layout
    assert not layout.is_declared("t")
    layout.declare("t", 2, StreamConfig(batch=True))
    assert layout.is_declared("t")
    assert [stream.config.batch for stream in layout.streams("t")] == [True, True]
    layout.learn("t", 4)
    assert layout.partitions("t") == 2


def test_a_topic_that_nobody_declared_is_unknown() -> None:
    with pytest.raises(UnknownTopicError, match="'t'"):
        StreamLayout("p:").partitions("t")
