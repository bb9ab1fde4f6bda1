"""What was published is done or counted as lost, to the entry, whatever dies on the way."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.test_gaps import Flow, source_gaps
from tests.reconciliation import GROUP, SOURCE, Ground, Receiver
from tests.worker_process import eventually

SMALL = {"CAPSULES_FETCH_COUNT": "50", "CAPSULES_PREFETCH_ENTRIES": "100"}


@pytest.fixture
async def flow(ground: Ground, tmp_path: Path) -> AsyncIterator[Flow]:
    async with Receiver() as receiver:
        flow = Flow(ground, receiver, tmp_path)
        yield flow
        flow.end()


def pending(flow: Flow) -> list[str]:
    """The ids of the source's entries that are delivered and not acknowledged."""
    found = flow.redis(lambda client: client.xpending_range(SOURCE, GROUP, "-", "+", 10_000))
    return [entry["message_id"].decode() for entry in found]


async def test_what_is_trimmed_while_no_worker_runs_is_counted(flow: Flow) -> None:
    worker = flow.worker()
    await worker.wait_for("partitions_taken")
    read = flow.publish(20)
    await flow.until_done(read)
    await eventually(lambda: not pending(flow), what="all acknowledged")
    worker.kill()
    unread = flow.publish(500, maxlen=100)
    worker = flow.worker()
    await flow.until_done(unread[-100:])
    (gap,) = await flow.until_gaps(1)
    assert (gap.kind, gap.stream, gap.entries) == ("trimmed_unread", SOURCE, 400)
    assert (gap.after_id, gap.before_id) == (read[-1], unread[-100])
    assert flow.done() == {*read, *unread[-100:]}
    assert await worker.stop() == 0


async def test_what_is_trimmed_while_the_worker_is_frozen_is_counted_once(flow: Flow) -> None:
    frozen = flow.worker(CAPSULES_WORKER_NAME="frozen")
    await frozen.wait_for("partitions_taken")
    read = flow.publish(20)
    await flow.until_done(read)
    await eventually(lambda: not pending(flow), what="all acknowledged")
    frozen.signal(signal.SIGSTOP)
    # A read of it waits in Redis and takes what comes first; nobody ever sees that answer.
    unread = flow.publish(500, maxlen=100)
    successor = flow.worker()
    await flow.until_done(unread[-100:])
    frozen.signal(signal.SIGCONT)
    await frozen.wait_for("partition_lost")
    more = flow.publish(5)
    await flow.until_done(more)
    await eventually(
        lambda: flow.lost() + len(flow.done()) == 525, what=f"525 entries: {flow.gaps()}"
    )
    assert flow.done() == {*read, *unread[-100:], *more}
    assert await frozen.stop() == 0
    assert await successor.stop() == 0
    assert flow.lost() == 400


async def test_what_is_trimmed_while_pending_is_named_by_its_ids(flow: Flow) -> None:
    worker = flow.worker()
    await worker.wait_for("partitions_taken")
    read = flow.publish(5)
    await flow.until_done(read)
    await eventually(lambda: not pending(flow), what="all acknowledged")
    worker.kill()
    held = flow.publish(30)
    flow.redis(lambda client: client.xreadgroup(GROUP, "owner", {SOURCE: ">"}, count=20))
    flow.redis(lambda client: client.xtrim(SOURCE, minid=held[12], approximate=False))
    worker = flow.worker()
    await flow.until_done(held[12:])
    (gap,) = await flow.until_gaps(1)
    assert (gap.kind, gap.entries, gap.entry_ids) == ("trimmed_pending", 12, held[:12])
    await eventually(lambda: not pending(flow), what="nothing pending")
    assert await worker.stop() == 0
    assert flow.done() == {*read, *held[12:]}


async def test_after_a_flush_while_no_worker_runs_what_was_published_since_is_done(
    flow: Flow,
) -> None:
    worker = flow.worker()
    await worker.wait_for("partitions_taken")
    read = flow.publish(5)
    await flow.until_done(read)
    await flow.until_remembered(read[-1])
    worker.kill()
    flow.redis(lambda client: client.flushall())
    since = flow.publish(40)
    worker = flow.worker()  # which begins at `$` where there never was a group
    await flow.until_done(since)
    await flow.until_gaps(1)
    (gap,) = source_gaps(flow.gaps())
    assert (gap.kind, gap.after_id, gap.before_id) == ("stream_recreated", read[-1], since[0])
    assert await worker.stop() == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_under_a_trimming_producer_and_kills_each_entry_is_done_or_lost(
    flow: Flow, seed: int
) -> None:
    rng = random.Random(seed)
    worker = flow.worker(**SMALL)
    await worker.wait_for("partitions_taken")
    published: list[str] = []
    for _ in range(5):
        for _ in range(rng.randrange(2, 6)):
            published += flow.publish(rng.randrange(1, 400), maxlen=rng.randrange(50, 200))
            await asyncio.sleep(rng.random() / 10)
        worker.kill()
        published += flow.publish(rng.randrange(1, 400), maxlen=rng.randrange(50, 200))
        worker = flow.worker(**SMALL)
        await eventually(lambda: worker.said("partitions_taken"), what="partitions")  # noqa: B023
    published += flow.publish(1)
    await flow.until_done(published[-1:])
    await eventually(lambda: not pending(flow), what="nothing pending", timeout_s=60)

    def accounted() -> int:
        return len(flow.done()) + flow.lost()

    await eventually(flow.ground.drained, what="all done", timeout_s=60)
    await eventually(
        lambda: accounted() >= len(published), what="each entry accounted for", timeout_s=30
    )
    assert await worker.stop() == 0
    # An entry that was trimmed while pending may have had its effects: it is done and lost.
    named = {i for gap in flow.gaps() for i in gap.entry_ids}
    assert accounted() - len(named & flow.done()) == len(published)
    assert flow.done() <= set(published)
    assert flow.lost() > 0
    assert {gap.kind for gap in flow.gaps()} <= {"trimmed_unread", "trimmed_pending"}


@pytest.mark.parametrize("seed", [1, 2])
async def test_kills_alone_lose_nothing_and_report_nothing(flow: Flow, seed: int) -> None:
    rng = random.Random(seed)
    published: list[str] = []
    for _ in range(4):
        worker = flow.worker(**SMALL, CAPSULES_SOURCE_START_ID="0")
        await worker.wait_for("partitions_taken")
        for _ in range(10):
            published += flow.publish(rng.randrange(1, 100))
            await asyncio.sleep(rng.random() / 20)
        worker.kill()
    worker = flow.worker(**SMALL)
    await worker.wait_for("partitions_taken")  # there may be nothing left for it to do
    await flow.until_done(published)
    await eventually(lambda: not pending(flow), what="nothing pending")
    assert await worker.stop() == 0
    assert flow.gaps() == []
