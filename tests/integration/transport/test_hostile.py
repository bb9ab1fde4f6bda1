"""No entry, whatever its fields, stops a stream or reaches what it should not."""

from __future__ import annotations

from typing import Any

import faust
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.transport import Entry, StreamConfig

from .lab import EXPLICIT, Lab
from .waiting import Received, eventually

pytestmark = pytest.mark.usefixtures("said_now")

Fields = dict[Any, Any]

ODD_ENTRIES: list[Fields] = [
    {b"x": b"1"},
    {b"": b""},
    {b"payload": b"{}", b"k": b"\xff"},
    {b"h:": b"no name"},
    {b"h:\xff\xfe": b"\x00"},
    {b"h:a\r\nb": b"c\r\nd"},
    {b"v": b"", b"h:\x00": b""},
    {b"V": b"1", b"K": b"2", b"h": b"3"},
    {b"v" * 10_000: b"v"},
]


@pytest.mark.parametrize("fields", ODD_ENTRIES, ids=repr)
async def test_an_entry_with_odd_fields_stops_nothing(lab: Lab, fields: Fields) -> None:
    app = lab.app()
    received = app.collect_events(app.stream_topic("t"))
    await lab.start(app)
    await lab.redis.xadd(lab.key("t"), fields)
    await lab.add(lab.key("t"), b"next")
    odd, following = await received.until(2)
    assert odd.value == fields.get(b"v")
    assert odd.key == fields.get(b"k")
    assert isinstance(odd.headers, dict)
    assert following.value == b"next"
    await lab.settled(lab.key("t"))
    assert not app.crashed


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    entries=st.lists(
        st.dictionaries(
            st.one_of(st.binary(max_size=8), st.sampled_from([b"k", b"v", b"h:a", b"h:\xff"])),
            st.binary(max_size=8),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=20,
    )
)
async def test_any_entries_arrive_whole_and_in_order(lab: Lab, entries: list[Fields]) -> None:
    app = lab.app()
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    for fields in entries:
        await lab.redis.xadd(lab.key("t"), fields)

    def seen() -> list[Entry]:
        return [entry for batch in received.items for entry in batch]

    await eventually(lambda: len(seen()) == len(entries), what="all entries")
    assert [entry.fields for entry in seen()] == entries
    for entry in seen():
        entry.headers()
    app.redis_consumer.settle(seen())
    await lab.settled(lab.key("t"))
    await lab.stop(app)


async def test_fields_of_a_stream_of_somebody_else_become_no_key_and_no_headers(lab: Lab) -> None:
    """A header names the topic that a reply is sent to."""
    app = lab.app()
    source = StreamConfig(external_key="theirs", start_id="0")
    received = app.collect_events(app.stream_topic("s", source))
    victim = app.collect(app.stream_topic("victim"), name="victim")

    async def replying(stream: faust.StreamT[Any]) -> Any:
        async for value in stream:
            yield value

    app.agent(app.stream_topic("s", source), name="replying")(replying)
    await lab.start(app)
    fields: Fields = {
        b"k": b"key",
        b"v": b"value",
        b"h:Faust-Ag-ReplyTo": b"victim",
        b"h:Faust-Ag-CorrelationId": b"1",
    }
    await lab.redis.xadd("theirs", fields)
    (event,) = await received.until(1)
    assert (event.key, event.headers) == (None, {})
    await lab.settled("theirs")
    assert victim.items == []
    assert await lab.redis.xlen(lab.key("victim")) == 0


async def test_a_reply_to_a_topic_that_nobody_declared_goes_nowhere(lab: Lab) -> None:
    app = lab.app()
    done = Received[Any]()

    async def replying(stream: faust.StreamT[Any]) -> Any:
        async for value in stream:
            done.add(value)
            yield value

    app.agent(app.stream_topic("t"), name="replying")(replying)
    await lab.start(app)
    fields: Fields = {b"v": b"0", b"h:Faust-Ag-ReplyTo": b"elsewhere"}
    await lab.redis.xadd(lab.key("t"), fields)
    await lab.add(lab.key("t"), b"1")
    assert await done.until(2) == [b"0", b"1"]
    await lab.settled(lab.key("t"))
    assert await lab.redis.keys("*elsewhere*") == []


async def test_an_id_from_the_far_future_stops_nothing(lab: Lab) -> None:
    app = lab.app()
    received = app.collect_events(app.stream_topic("t"))
    await lab.start(app)
    far = 2**63
    await lab.redis.xadd(lab.key("t"), {"v": "0"}, id=f"{far}-0")
    await lab.add(lab.key("t"), b"1")
    first, second = await received.until(2)
    assert (first.value, second.value) == (b"0", b"1")
    assert first.message.timestamp == far / 1000
    await lab.settled(lab.key("t"))
