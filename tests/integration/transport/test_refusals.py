"""What this transport does not do is refused, with its reason, and before harm is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import faust
import pytest

from streams.transport import (
    PartitionsChangedError,
    Record,
    StreamConfig,
    UnknownTopicError,
    UnsupportedError,
)

from .lab import EXPLICIT, Lab, LabApp
from .waiting import eventually

pytestmark = pytest.mark.usefixtures("said_now")


async def test_exactly_once_is_refused_at_the_start(lab: Lab) -> None:
    app = lab.app(settings={"processing_guarantee": "exactly_once"})
    app.collect(app.stream_topic("t"))
    with pytest.raises(UnsupportedError, match="exactly_once"):
        await lab.start(app)


async def test_tables_are_refused_at_the_start(lab: Lab) -> None:
    app = lab.app()
    app.collect(app.stream_topic("t"))
    app.Table("counts", default=int)
    with pytest.raises(UnsupportedError, match="tables"):
        await lab.start(app)


async def test_publishing_on_commit_is_refused_at_the_start(lab: Lab) -> None:
    app = lab.app(settings={"stream_publish_on_commit": True})
    app.collect(app.stream_topic("t"))
    with pytest.raises(UnsupportedError, match="stream_publish_on_commit"):
        await lab.start(app)


async def test_compacted_topics_are_refused(lab: Lab) -> None:
    app = lab.app()
    with pytest.raises(UnsupportedError, match="compacted"):
        await app.stream_topic("t", compacting=True).declare()


async def test_another_number_of_partitions_than_recorded_ends_the_worker(lab: Lab) -> None:
    before = lab.app()
    before.collect(before.stream_topic("t", partitions=4))
    await lab.start(before)
    await lab.stop(before)
    app = lab.app()
    app.collect(app.stream_topic("t", partitions=5))
    starting = asyncio.create_task(lab.start(app))
    await eventually(lambda: app.crashed, what="the end")
    assert isinstance(app.crash_reason, PartitionsChangedError)
    assert "topic t has 4 partitions in Redis and 5" in str(app.crash_reason)
    await lab.stop(app)
    await starting
    assert await lab.redis.exists(lab.key("t", 4)) == 0


async def test_the_same_number_of_partitions_is_accepted_and_recorded(lab: Lab) -> None:
    for _ in range(2):
        app = lab.app()
        app.collect(app.stream_topic("t", partitions=4))
        app.collect(app.stream_topic("s", StreamConfig(external_key="theirs")), name="theirs")
        await lab.start(app)
        await lab.stop(app)
    assert await lab.redis.hgetall(lab.name("topics")) == {b"t": b"4"}


def test_a_stream_of_somebody_else_is_one_partition(lab: Lab) -> None:
    app = lab.app()
    layout = app.transport.layout  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedError, match="one partition, not 2"):
        layout.declare("s", 2, StreamConfig(external_key="theirs"))


@pytest.fixture
async def app(lab: Lab) -> LabApp:
    """A running app with the topic ``t`` of two partitions."""
    app = lab.app()
    app.collect(app.stream_topic("t", partitions=2))
    await lab.start(app)
    return app


async def test_an_unknown_topic_is_refused(lab: Lab, app: LabApp) -> None:
    with pytest.raises(UnknownTopicError, match="'nowhere'"):
        await lab.send(app.topic("nowhere"), value=b"v")
    with pytest.raises(UnknownTopicError):
        await app.producer.send_and_wait("nowhere", None, b"v", None, None, None)
    with pytest.raises(UnknownTopicError):
        await app.redis_producer.send_many(["nowhere"], [Record(b"v")])
    assert await lab.redis.keys(lab.name("nowhere*")) == []


async def test_sending_soon_to_an_unknown_topic_harms_nobody_else(lab: Lab, app: LabApp) -> None:
    future = app.topic("nowhere").send_soon(value=b"v")
    with pytest.raises(UnknownTopicError):
        await future
    (place,) = {(await app.topic("t", key_serializer="raw").send_soon(key=b"k", value=b"v")).topic}
    assert place == "t"
    assert not app.crashed


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"partition": 2}, ValueError),
        ({"partition": -1}, ValueError),
        ({"headers": {"a": None}}, TypeError),
        ({"headers": {"a": 1}}, TypeError),
        ({"headers": {"\udc80": b"1"}}, ValueError),
    ],
)
async def test_a_message_that_cannot_be_sent_harms_nobody_else(
    lab: Lab, app: LabApp, message: dict[str, Any], error: type[Exception]
) -> None:
    topic = app.topic("t")
    futures = [await topic.send(value=b"v", **kwargs) for kwargs in ({}, message, {})]
    answers = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 2)
    assert [type(answer).__name__ for answer in answers[::2]] == ["RecordMetadata"] * 2
    assert isinstance(answers[1], error)


async def test_transactions_are_refused(app: LabApp) -> None:
    with pytest.raises(UnsupportedError, match="transactions"):
        await app.producer.send("t", None, b"v", None, None, None, transactional_id="x")


async def test_a_topic_that_was_looked_up_first_keeps_its_settings(lab: Lab) -> None:
    """Another agent may send to a topic before this worker has declared it."""
    before = lab.app()
    before.collect(before.stream_topic("u", EXPLICIT))
    await lab.start(before)
    await lab.stop(before)
    app = lab.app()
    received = app.collect(app.stream_topic("u", EXPLICIT))
    await app.producer.send_and_wait("u", None, b"early", None, None, None)
    await lab.start(app)
    ((entry,),) = await received.until(1)
    assert entry.value == b"early"
    assert await lab.pending(lab.key("u")) == [entry.id]


@pytest.mark.parametrize(
    "call",
    [
        lambda consumer: consumer._seek(None, 0),
        lambda consumer: consumer._getmany(None, 0.0),
    ],
)
async def test_what_only_offsets_could_answer_is_refused(
    app: LabApp, call: Callable[[Any], Awaitable[Any]]
) -> None:
    with pytest.raises(UnsupportedError):
        await call(app.redis_consumer)


async def test_a_producer_alone_can_send_to_what_a_worker_has_declared(
    lab: Lab, app: LabApp
) -> None:
    client = faust.App(lab.app_id, broker=lab.url, value_serializer="raw")
    try:
        metadata = await client.producer.send_and_wait("t", b"k", b"v", None, None, None)
    finally:
        await client.producer.stop()
    assert metadata.topic == "t"
