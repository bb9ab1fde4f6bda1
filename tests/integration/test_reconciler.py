"""End to end: a real worker leaves behind what the oracle says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.event_log import EventLog, event_logs, generate
from tests.faults.fleet import expected_changes, record_changes, recorded_changes
from tests.oracle import replay
from tests.reconciliation import Ground, Receiver, assert_same
from tests.worker_process import WorkerProcess, eventually

#: One worker and one pair of servers for all examples of a test.
shared = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(shared, max_examples=2, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), capsules=st.sampled_from([500, 3_000]))
async def test_20_000_random_events_end_as_the_oracle_says(
    ground: Ground, tmp_path: Path, seed: int, capsules: int
) -> None:
    log = generate(seed, events=20_000, capsules=capsules)
    expected = replay(log.rows, log.entries)
    ground.clear()
    ground.load(log.rows)
    ground.publish(log.entries)
    async with Receiver() as receiver:
        worker = WorkerProcess(tmp_path / str(seed), **ground.settings(**receiver.settings()))
        await worker.wait_for("partitions_taken")
        await eventually(ground.drained, what="all done", timeout_s=90)
        assert await worker.stop() == 0
        assert_same(ground.outcome(receiver), expected)
        # Without a crash there is no reason for anything to come twice.
        assert len(receiver.arrivals) == sum(map(len, expected.deliveries.values()))
    assert len(ground.outcome().dead_lettered) == len(expected.dead_lettered)


@pytest.fixture
async def worker(ground: Ground, tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(tmp_path, **ground.settings())
    await worker.wait_for("partitions_taken")
    yield worker
    assert await worker.stop() == 0


def behind(log: EventLog, last_id: str) -> EventLog:
    """The same log with ids above `last_id`, as the stream demands of new entries."""
    ms = int(last_id.partition("-")[0]) + 1
    return replace(log, entries=[(f"{ms + n}-0", p) for n, (_, p) in enumerate(log.entries)])


@settings(shared, max_examples=60)
@given(drawn=event_logs())
async def test_any_log_of_events_ends_as_the_oracle_says(
    ground: Ground, worker: WorkerProcess, drawn: EventLog
) -> None:
    assert worker.process.poll() is None
    log = behind(drawn, ground.last_id())
    ground.load(log.rows)
    ground.publish(log.entries)
    await eventually(ground.drained, what="all done")
    expected = replay(log.rows, log.entries)
    expected.deliveries.clear()  # there is no sink
    assert_same(ground.outcome(), expected)


async def test_order_holds_where_postgres_refuses_what_is_in_the_midst_of_a_capsules_events(
    ground: Ground, tmp_path: Path
) -> None:
    """Twenty capsules, each with a hundred events at once, of which one in fifty is refused."""
    log = generate(79, events=2_000, capsules=20)
    refused = {entry_id for entry_id, _ in log.entries[::50]}
    ground.load(log.rows)
    record_changes(ground)
    ground.refuse(refused)
    ground.publish(log.entries)
    async with Receiver() as receiver:
        worker = WorkerProcess(tmp_path, **ground.settings(**receiver.settings()))
        await eventually(ground.drained, what="all done", timeout_s=90)
        assert await worker.stop() == 0
    taken = replace(log, entries=[entry for entry in log.entries if entry[0] not in refused])
    expected = replay(taken.rows, taken.entries)
    whole = replay(log.rows, log.entries)
    expected.dead_lettered = whole.dead_lettered + sorted(refused.intersection(whole.done))
    assert_same(ground.outcome(receiver), expected)
    assert recorded_changes(ground) == expected_changes(taken)
