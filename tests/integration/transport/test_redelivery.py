"""What was delivered and not acknowledged comes again: first, in order, and once at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from structlog.testing import capture_logs

from streams.transport import Entry

from .lab import EXPLICIT, Lab, LabApp
from .waiting import Received, eventually


def values(received: Received[Any]) -> list[bytes]:
    return [entry.value for batch in received.items for entry in batch]


async def take_without_settling(lab: Lab, *sent: bytes, topic: str = "t") -> LabApp:
    """Start an app that is given `sent` and settles nothing."""
    app = lab.app()
    received = app.collect(app.stream_topic(topic, EXPLICIT))
    await lab.start(app)
    await lab.add(lab.key(topic), *sent)
    await eventually(lambda: values(received) == list(sent), what="the delivery")
    return app


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_the_next_worker_gets_what_is_pending_first(lab: Lab, end: str) -> None:
    app = await take_without_settling(lab, b"0", b"1", b"2")
    await (lab.stop(app) if end == "stop" else lab.crash(app))
    await lab.add(lab.key("t"), b"3", b"4")
    successor = lab.app()
    received = successor.collect(successor.stream_topic("t", EXPLICIT))
    await lab.start(successor)
    await eventually(lambda: len(values(received)) == 5, what="pending and new")
    assert values(received) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_what_faust_had_not_acknowledged_comes_again(lab: Lab, end: str) -> None:
    app = lab.app(drain_timeout_s=0.1)
    topic = app.stream_topic("t")
    received = app.collect(topic, gate=lab.gate())
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1", b"2")
    await received.until(1)
    await eventually(lambda: lab.has_pending(lab.key("t"), *ids), what="all pending")
    await (lab.stop(app) if end == "stop" else lab.crash(app))
    successor = lab.app()
    again = successor.collect(successor.stream_topic("t"))
    await lab.start(successor)
    assert await again.until(3) == [b"0", b"1", b"2"]
    await lab.settled(lab.key("t"))


async def test_more_pending_than_one_read_gives_comes_in_order(lab: Lab) -> None:
    sent = [b"%d" % n for n in range(100)]
    app = await take_without_settling(lab, *sent)
    await lab.crash(app)
    await lab.add(lab.key("t"), b"new")
    successor = lab.app(fetch_count=7, prefetch_entries=21)
    received = successor.collect(successor.stream_topic("t", EXPLICIT))
    await lab.start(successor)
    settled: list[Entry] = []
    while len(settled) < 101:
        await eventually(lambda: len(values(received)) > len(settled), what="one more entry")
        assert len(values(received)) <= len(settled) + 21
        entries = [entry for batch in received.items for entry in batch]
        settled.append(entries[len(settled)])
        successor.redis_consumer.settle(settled[-1:])
    assert values(received) == [*sent, b"new"]


async def test_entries_of_a_lost_answer_are_found_after_the_reconnect(lab: Lab) -> None:
    app = lab.app(block_ms=20_000, sweep_s=60)
    received = app.collect(app.stream_topic("t"))
    await lab.start_and_own(app)
    await lab.add_and_lose(lab.key("t"), b"0", b"1")
    reader = await lab.reader_id()
    assert await lab.redis.client_kill_filter(_id=str(reader)) == 1
    assert await received.until(2) == [b"0", b"1"]
    await lab.add(lab.key("t"), b"2")
    assert await received.until(3) == [b"0", b"1", b"2"]
    assert await lab.reader_id() != reader
    await lab.settled(lab.key("t"))


async def test_entries_of_a_lost_answer_come_before_new_ones(lab: Lab) -> None:
    app = lab.app(block_ms=20_000, sweep_s=60, backoff_min_s=0.3)
    received = app.collect(app.stream_topic("t"))
    await lab.start_and_own(app)
    await lab.add_and_lose(lab.key("t"), b"0", b"1")
    await lab.redis.client_kill_filter(_id=str(await lab.reader_id()))
    await lab.add(lab.key("t"), b"2")  # before the reader is back
    assert await received.until(3) == [b"0", b"1", b"2"]


async def test_entries_of_a_lost_answer_are_found_by_the_sweep(lab: Lab) -> None:
    app = lab.app(block_ms=20, sweep_s=0.05)
    received = app.collect(app.stream_topic("t"))
    await lab.start_and_own(app)
    reader = await lab.reader_id()
    await lab.add_and_lose(lab.key("t"), b"0", b"1")
    assert await received.until(2) == [b"0", b"1"]
    assert await lab.reader_id() == reader
    await lab.settled(lab.key("t"))


async def swept(lab: Lab, key: str, times: int = 3) -> None:
    """Wait until the newest pending entry was read again `times` times."""

    async def check() -> bool:
        details = await lab.pending_details(key)
        return not details or details[-1]["times_delivered"] > times

    await eventually(check, what="the sweep")


async def test_the_sweep_does_not_deliver_what_is_in_hand_again(lab: Lab) -> None:
    app = lab.app(block_ms=20, sweep_s=0.02)
    explicit = app.collect(app.stream_topic("t", EXPLICIT), name="explicit")
    gate = lab.gate()
    held = app.collect(app.stream_topic("u"), gate=gate, name="held")
    await lab.start(app)
    await lab.add(lab.key("t"), b"0", b"1")
    await lab.add(lab.key("u"), b"0", b"1")
    await held.until(1)
    await swept(lab, lab.key("t"))
    await swept(lab, lab.key("u"))
    assert values(explicit) == [b"0", b"1"]
    gate.set()
    await lab.settled(lab.key("u"))
    assert held.items == [b"0", b"1"]


async def test_the_sweep_does_not_deliver_what_is_done_with_meanwhile_again(lab: Lab) -> None:
    app = lab.app(block_ms=20, sweep_s=0.005, fetch_count=100, prefetch_entries=1_000)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start_and_own(app)
    # So large that the answers with what is pending take a while to come.
    sent = [b"%d " % n + bytes(20_000) for n in range(100)]
    for _ in range(10):
        before = len(values(received))
        await lab.add(lab.key("t"), *sent)
        await eventually(lambda: len(values(received)) >= before + 100, what="the delivery")  # noqa: B023
        for entry in [entry for batch in received.items for entry in batch][before:]:
            app.redis_consumer.settle([entry])
            await asyncio.sleep(0.001)
    await lab.settled(lab.key("t"))
    assert Counter(values(received)) == dict.fromkeys(sent, 10)


async def test_pending_entries_that_were_trimmed_are_reported_as_lost(lab: Lab) -> None:
    app = await take_without_settling(lab, b"0", b"1", b"2", b"3")
    await lab.crash(app)
    ids = await lab.pending(lab.key("t"))
    await lab.redis.execute_command("XTRIM", lab.key("t"), "MINID", "=", ids[2])
    with capture_logs() as logs:
        successor = lab.app(block_ms=20, sweep_s=0.02)
        received = successor.collect(successor.stream_topic("t", EXPLICIT))
        await lab.start(successor)
        await eventually(lambda: values(received) == [b"2", b"3"], what="what is left")
        await eventually(lambda: lab.has_pending(lab.key("t"), *ids[2:]), what="lost ones acked")
        await swept(lab, lab.key("t"))
    (record,) = [log for log in logs if log.get("action") == "entries_lost"]
    assert record["stream"] == lab.key("t")
    assert (record["count"], record["first"], record["last"]) == (
        2,
        ids[0].decode(),
        ids[1].decode(),
    )
    assert successor.redis_consumer.lost_total == 2


async def test_what_is_trimmed_while_in_hand_is_not_lost(lab: Lab) -> None:
    app = lab.app(block_ms=20, sweep_s=0.02)
    received: Received[list[Entry]] = app.collect(app.stream_topic("t", EXPLICIT))
    await lab.start(app)
    ids = await lab.add(lab.key("t"), b"0", b"1")
    await eventually(lambda: values(received) == [b"0", b"1"], what="the delivery")
    await lab.redis.execute_command("XTRIM", lab.key("t"), "MINID", "=", ids[1])
    await swept(lab, lab.key("t"))
    assert app.redis_consumer.lost_total == 0
    assert await lab.pending(lab.key("t")) == ids
    app.redis_consumer.settle(entry for batch in received.items for entry in batch)
    await lab.settled(lab.key("t"))
