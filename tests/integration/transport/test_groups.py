"""The consumer group: where it starts, and what happens when it is taken away."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from streams.transport import StreamConfig

from .lab import Lab, LabApp
from .waiting import Received, eventually


def reading(app: LabApp, start_id: str) -> Received[Any]:
    """Have `app` read the stream `theirs` from `start_id` on, whole entries."""
    config = StreamConfig(external_key="theirs", start_id=start_id, batch=True)
    return app.collect(app.stream_topic("source", config))


def values(received: Received[Any]) -> list[bytes]:
    return [entry.fields[b"v"] for batch in received.items for entry in batch]


@pytest.mark.parametrize(
    ("start_id", "expected"),
    [("$", [b"new"]), ("0", [b"0", b"1", b"2", b"new"]), ("second", [b"2", b"new"])],
)
async def test_a_new_group_starts_where_the_topic_says(
    lab: Lab, start_id: str, expected: list[bytes]
) -> None:
    ids = await lab.add("theirs", b"0", b"1", b"2")
    app = lab.app()
    received = reading(app, ids[1].decode() if start_id == "second" else start_id)
    await lab.start_and_own(app)
    await lab.add("theirs", b"new")
    await eventually(lambda: values(received) == expected, what="what was asked for")


async def test_a_group_is_made_with_its_stream(lab: Lab) -> None:
    app = lab.app()
    received = reading(app, "$")
    await lab.start_and_own(app)
    await lab.add("theirs", b"0")
    await eventually(lambda: values(received) == [b"0"], what="the first entry of all")


async def test_a_group_that_exists_goes_on_where_it_was(lab: Lab) -> None:
    ids = await lab.add("theirs", b"0", b"1", b"2")
    await lab.redis.xgroup_create("theirs", lab.app_id, id=ids[0])
    app = lab.app()
    received = reading(app, "$")
    await lab.start(app)
    await eventually(lambda: values(received) == [b"1", b"2"], what="what the group had not got")


@pytest.mark.parametrize("start_id", ["", "x", "-1", "0-", "$$", "1-2-3", " 0"])
def test_a_start_that_is_none_is_refused(start_id: str) -> None:
    with pytest.raises(ValueError, match="start_id"):
        StreamConfig(start_id=start_id)


async def test_a_group_destroyed_under_a_waiting_read_is_made_anew(lab: Lab) -> None:
    app = lab.app(block_ms=20_000)
    received = reading(app, "$")
    await lab.start_and_own(app)
    await lab.add("theirs", b"0")
    await eventually(lambda: values(received) == [b"0"], what="the first entry")
    await eventually(lab.reader_waits, what="a waiting read")
    with capture_logs() as logs:
        await lab.redis.xgroup_destroy("theirs", lab.app_id)
        await lab.add("theirs", b"1")
        # At the start of what is left, whatever the topic says: nothing is lost.
        await eventually(lambda: values(received) == [b"0", b"0", b"1"], what="all of the stream")
    assert [log["action"] for log in logs].count("group_lost") == 1
    await lab.settled("theirs")


async def test_a_stream_deleted_under_a_waiting_read_is_made_anew(lab: Lab) -> None:
    app = lab.app(block_ms=20_000)
    topic = app.stream_topic("t", partitions=2)
    received = app.collect(topic)
    await lab.start_and_own(app)
    await eventually(lab.reader_waits, what="a waiting read")
    await lab.redis.delete(lab.key("t"))
    for partition in range(2):
        await lab.send(topic, value=b"%d" % partition, partition=partition)
    assert sorted(await received.until(2)) == [b"0", b"1"]
    await lab.settled(lab.key("t"))


async def test_a_stream_deleted_with_entries_in_hand_goes_on(lab: Lab) -> None:
    app = lab.app(block_ms=20_000)
    topic = app.stream_topic("t")
    gate = lab.gate()
    received = app.collect(topic, gate=gate)
    await lab.start_and_own(app)
    await lab.add(lab.key("t"), b"0", b"1")
    await received.until(1)
    await lab.redis.delete(lab.key("t"))
    await eventually(lambda: lab.redis.exists(lab.key("t")), what="the stream again")
    gate.set()
    await lab.send(topic, value=b"2")
    await eventually(lambda: b"2" in received.items, what="the entry of the new stream")
    await lab.settled(lab.key("t"))


async def test_everything_flushed_under_a_waiting_read_is_made_anew(lab: Lab) -> None:
    app = lab.app(block_ms=20_000, lease_s=1.0)
    topic = app.stream_topic("t", partitions=2)
    received = app.collect(topic)
    await lab.start_and_own(app)
    await eventually(lab.reader_waits, what="a waiting read")
    await lab.redis.flushall()
    for partition in range(2):
        await lab.send(topic, value=b"%d" % partition, partition=partition)
    await eventually(lambda: {b"0", b"1"} <= set(received.items), what="both entries")
    for partition in range(2):
        await lab.settled(lab.key("t", partition))
    await eventually(lab.owned_by(app), what="the lease again")
    # Without it, nobody else could send to the topic.
    assert await lab.redis.hgetall(lab.name("topics")) == {b"t": b"2"}
