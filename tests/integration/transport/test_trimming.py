"""Our streams are trimmed behind what every group is done with, and nowhere else."""

from __future__ import annotations

from typing import Any

from streams.transport import Entry, StreamConfig

from .lab import EXPLICIT, Lab
from .waiting import Received, eventually


def in_hand(received: Received[list[Entry]]) -> list[Entry]:
    return [entry for batch in received.items for entry in batch]


async def ids_in(lab: Lab, key: str) -> list[bytes]:
    entries: Any = await lab.redis.xrange(key)
    return [entry_id for entry_id, _ in entries]


async def trimmed_to(lab: Lab, key: str, expected: list[bytes]) -> None:
    """Wait until exactly `expected` is left in the stream."""

    async def check() -> bool:
        return await ids_in(lab, key) == expected

    await eventually(check, what=f"{len(expected)} entries left")


async def test_an_owned_stream_is_trimmed_behind_what_is_acknowledged(lab: Lab) -> None:
    app = lab.app()
    received = app.collect(app.stream_topic("t", partitions=2))
    await lab.start(app)
    for partition in range(2):
        await lab.add(lab.key("t", partition), *[b"%d" % n for n in range(20)])
    await received.until(40)
    for partition in range(2):
        await trimmed_to(lab, lab.key("t", partition), [])


async def test_nothing_is_trimmed_past_a_pending_entry(lab: Lab) -> None:
    app = lab.app()
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    ids = await lab.add(lab.key("t"), *[b"%d" % n for n in range(6)])
    await eventually(lambda: len(in_hand(received)) == 6, what="all in hand")
    first, second, third, *rest = in_hand(received)
    app.redis_consumer.settle([first, third, *rest])
    await trimmed_to(lab, lab.key("t"), ids[1:])
    app.redis_consumer.settle([second])
    await trimmed_to(lab, lab.key("t"), [])


async def test_nothing_is_trimmed_that_was_not_read_yet(lab: Lab) -> None:
    app = lab.app(fetch_count=5, prefetch_entries=10)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    ids = await lab.add(lab.key("t"), *[b"%d" % n for n in range(30)])
    await eventually(lambda: len(in_hand(received)) == 10, what="a full partition")
    app.redis_consumer.settle(in_hand(received)[:4])  # too few for another read
    await trimmed_to(lab, lab.key("t"), ids[4:])
    settled = 4
    while settled < 30:
        await eventually(lambda: len(in_hand(received)) > settled, what="more")  # noqa: B023
        app.redis_consumer.settle(in_hand(received)[settled:])
        settled = len(in_hand(received))
    await trimmed_to(lab, lab.key("t"), [])
    assert [entry.id for entry in in_hand(received)] == ids


async def test_trimming_loses_nothing_while_entries_come_and_go(lab: Lab) -> None:
    app = lab.app(fetch_count=7, prefetch_entries=20, trim_interval_s=0.0)
    received = app.collect(app.stream_topic("t", partitions=2))
    await lab.start(app)
    for n in range(60):
        for partition in range(2):
            await lab.add(lab.key("t", partition), *[b"%d" % (10 * n + m) for m in range(10)])
    assert len(await received.until(1200)) == 1200
    for partition in range(2):
        await trimmed_to(lab, lab.key("t", partition), [])
    assert app.redis_consumer.lost_total == 0


async def test_a_stream_of_somebody_else_is_never_trimmed(lab: Lab) -> None:
    app = lab.app()
    external = StreamConfig(external_key="theirs", start_id="0")
    theirs = app.collect(app.stream_topic("source", external), name="theirs")
    ours = app.collect(app.stream_topic("t"), name="ours")
    await lab.start(app)
    ids = await lab.add("theirs", b"0", b"1", b"2")
    await theirs.until(3)
    await lab.settled("theirs")
    await lab.add(lab.key("t"), b"0")
    await ours.until(1)
    await trimmed_to(lab, lab.key("t"), [])  # the trimming that could have done it is over
    assert await ids_in(lab, "theirs") == ids


async def test_another_group_holds_trimming_back(lab: Lab) -> None:
    app = lab.app()
    received = app.collect(app.stream_topic("t"))
    key = lab.key("t")
    await lab.redis.xgroup_create(key, "audit", id="0", mkstream=True)
    await lab.start(app)

    async def pass_through(value: bytes) -> bytes:
        """Have one more entry acknowledged, and with it the stream looked at."""
        acknowledger = app.redis_consumer._acknowledger
        expected = acknowledger.total + 1
        (entry_id,) = await lab.add(key, value)
        await eventually(lambda: acknowledger.total == expected, what="the acknowledgement")
        await eventually(lambda: not acknowledger._untrimmed, what="a look")
        return entry_id

    first = await pass_through(b"0")
    second = await pass_through(b"1")
    assert await ids_in(lab, key) == [first, second]  # not read by the other group

    async def other_reads() -> Any:
        return await lab.redis.xreadgroup("audit", "auditor", {key: ">"}, count=1)

    await other_reads()
    third = await pass_through(b"2")
    assert await ids_in(lab, key) == [first, second, third]  # read there, and pending

    await lab.redis.xack(key, "audit", first)
    fourth = await pass_through(b"3")
    assert await ids_in(lab, key) == [second, third, fourth]
    await lab.redis.xgroup_destroy(key, "audit")
    await pass_through(b"4")
    await trimmed_to(lab, key, [])
    assert len(received.items) == 5
