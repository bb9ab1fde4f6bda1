"""The watermark: what was done once is not done again, whoever tries and whenever."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.event_log import EventLog, generate
from tests.faults.test_crashes import steps_done
from tests.oracle import Outcome, replay
from tests.reconciliation import GROUP, SOURCE, Ground, Receiver, assert_same
from tests.worker_process import WorkerProcess, eventually


@pytest.fixture
def log() -> EventLog:
    return generate(31, events=6_000, capsules=500)


def scramble(ground: Ground) -> Outcome:
    """Give all rows a status from which each event would lead on, and return what is there then.

    Audit rows lose their key, so that only the watermark stands between them and a twin.
    """
    with ground.cursor() as cursor:
        cursor.execute(
            "update sandboxes set host_ip = '', status = (array['starting', 'resuming',"
            " 'running', 'stopping'])[1 + abs(hashtext(id::text)) % 4]"
        )
        cursor.execute("alter table audit_logs drop constraint audit_logs_pkey")
    return ground.outcome()


def assert_unchanged(now: Outcome, then: Outcome) -> None:
    assert now.rows == then.rows
    assert sorted(map(_audit_text, now.audit)) == sorted(map(_audit_text, then.audit))


def _audit_text(row: object) -> str:
    return json.dumps(row, default=lambda value: getattr(value, "__dict__", str(value)))


async def test_everything_delivered_again_changes_nothing(
    ground: Ground, tmp_path: Path, log: EventLog
) -> None:
    ground.load(log.rows)
    ground.publish(log.entries)
    worker = WorkerProcess(tmp_path, **ground.settings())
    await eventually(ground.drained, what="all done", timeout_s=60)
    before = scramble(ground)
    done = steps_done(ground)
    with ground.redis() as client:
        client.xgroup_setid(SOURCE, GROUP, "0")
    await eventually(
        lambda: steps_done(ground) > done and ground.drained(), what="all done again", timeout_s=60
    )
    assert await worker.stop() == 0
    assert_unchanged(ground.outcome(), before)


@pytest.mark.timeout(180)
async def test_a_frozen_worker_that_wakes_up_changes_nothing(
    ground: Ground, tmp_path: Path, log: EventLog
) -> None:
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    async with Receiver() as receiver:
        settings = ground.settings(**receiver.settings())
        frozen = WorkerProcess(tmp_path / "frozen", **settings)
        await frozen.wait_for("partitions_taken")
        moment = steps_done(ground) + 1_500
        ground.publish(log.entries)
        await eventually(lambda: steps_done(ground) >= moment, what="some work done")
        frozen.signal(signal.SIGSTOP)
        successor = WorkerProcess(tmp_path / "successor", **settings)
        await successor.wait_for("partitions_taken")
        await eventually(ground.drained, what="all done", timeout_s=90)
        assert_same(ground.outcome(receiver), expected)
        before = scramble(ground)
        frozen.signal(signal.SIGCONT)
        await frozen.wait_for("partition_lost")
        assert await successor.stop() == 0
        # It joins again, with what it had in hand when it froze behind it.
        await eventually(lambda: ground.shares() == [34], what="everything taken again")
        await eventually(ground.drained, what="nothing left")
        assert await frozen.stop() == 0
        assert_unchanged(ground.outcome(), before)
        deliveries = receiver.first_deliveries()
    assert deliveries == dict(expected.deliveries)
