"""More deliveries wait for a sink than may: the pipeline is held up, or the oldest give way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from streams.sinks.room import ROOM_BELOW
from tests.command_line import run_command
from tests.event_log import generate
from tests.faults.account import settled
from tests.faults.scene import SMALL, FaultyReceiver
from tests.faults.test_sink_outages import says
from tests.oracle import Delivery, replay
from tests.reconciliation import Ground, Receiver, assert_same
from tests.worker_process import WorkerProcess, eventually

LOG = generate(91, events=1_500, capsules=100)
EXPECTED = replay(LOG.rows, LOG.entries)
TOTAL = sum(map(len, EXPECTED.deliveries.values()))
VERBS = ["create", "destroy", "pause", "resume"]
#: What may be sent in the second between two looks: a batch of each verb, for each worker.
SLACK = 4 * int(SMALL["CAPSULES_LANE_BATCH_MAX"])


def sinks(*receivers: tuple[str, Receiver, dict[str, Any]]) -> str:
    return json.dumps(
        [
            json.loads(receiver.settings()["CAPSULES_SINKS"])[0]
            | {"name": name, "breaker_pause_s": 0.5, "retry_pause_max_s": 2}
            | more
            for name, receiver, more in receivers
        ]
    )


async def test_a_sink_whose_backlog_is_full_holds_up_the_pipeline_until_there_is_room(
    ground: Ground, tmp_path: Path
) -> None:
    ground.load(LOG.rows)
    ready_file = tmp_path / "ready"
    async with FaultyReceiver() as down, Receiver() as fine:
        down.answer = says(503)
        more = {"CAPSULES_READY_FILE": str(ready_file), "CAPSULES_STALL_AFTER_S": "1"}
        given = sinks(("down", down, {"backlog_max": 100}), ("fine", fine, {}))
        settings = ground.settings(CAPSULES_SINKS=given, **SMALL, **more)
        first = WorkerProcess(tmp_path / "first", **settings)
        await first.wait_for("partitions_taken")
        ground.publish(LOG.entries)
        await first.wait_for("backlog_full")
        # A worker rather counts one twice than not at all, and goes on below this only.
        is_full = int(100 * ROOM_BELOW) + 1
        await eventually(lambda: ground.waiting("hooks.down") >= is_full, what="a full backlog")
        # A probe fails again and again meanwhile, and the fleet's look finds it as full as before.
        probes = retries(first) + 4
        await eventually(lambda: retries(first) >= probes, what="four more probes")
        assert is_full <= ground.waiting("hooks.down") <= 100 + SLACK
        assert len(fine.arrivals) < TOTAL
        assert ground.outcome().rows != EXPECTED.rows
        looked = await asyncio.to_thread(
            run_command, tmp_path, settings, "topology", "--live", "--json"
        )
        nodes = {node["name"]: node for node in json.loads(looked.stdout)["nodes"]}
        held_up = [stage for stage in VERBS if nodes[stage]["figures"]["blocked_by"]]
        assert held_up
        assert {nodes[stage]["figures"]["blocked_by"] for stage in held_up} == {"sink.down"}
        assert nodes["hook.down"]["figures"]["input"]["holds_up"] == VERBS
        assert "holds up the pipeline" in nodes["sink.down"]["because"]
        # It is as it should be, and nobody is to start it anew for that.
        await eventually(ready_file.exists, what="a worker that is ready")
        assert not first.said("stalled")
        assert await first.stop() == 0
        assert not first.said("drain_timeout")
        second = WorkerProcess(tmp_path / "second", **settings)
        await second.wait_for("backlog_full")
        down.answer = None
        await second.wait_for("backlog_has_room")
        await eventually(lambda: settled(ground), what="all done", timeout_s=60)
        assert await second.stop() == 0
        for receiver in (down, fine):
            assert_same(ground.outcome(receiver), EXPECTED)


def retries(worker: WorkerProcess) -> int:
    return sum(record.get("action") == "delivery_retry" for record in worker.records())


async def test_the_oldest_deliveries_of_a_full_backlog_give_way_and_are_kept(
    ground: Ground, tmp_path: Path
) -> None:
    ground.load(LOG.rows)
    async with FaultyReceiver() as down, Receiver() as fine:
        down.answer = says(503)
        policy = {"backlog_max": 100, "at_backlog_max": "dead_letter_oldest"}
        given = sinks(("down", down, policy), ("fine", fine, {}))
        settings = ground.settings(CAPSULES_SINKS=given, **SMALL)
        fleet = [WorkerProcess(tmp_path / str(n), **settings) for n in range(2)]
        await eventually(lambda: ground.shares() == [7, 7], what="two workers")
        ground.publish(LOG.entries)
        await eventually(
            lambda: len({a.delivery_id for a in fine.arrivals}) == TOTAL,
            what="all at the other sink",
        )
        await eventually(lambda: ground.waiting("hooks.down") <= 100, what="no more than may wait")
        assert any(worker.said("backlog_full") for worker in fleet)
        down.answer = None
        await eventually(lambda: settled(ground), what="all done", timeout_s=60)
        for worker in fleet:
            assert await worker.stop() == 0
    assert_same(ground.outcome(fine), EXPECTED)
    with ground.cursor() as cursor:
        cursor.execute(
            "select origin_id, reason from capsule_reconciler.dead_letters where sink = 'down'"
        )
        dead = dict(cursor.fetchall())
    assert set(dead.values()) == {"backlog_full"}
    taken = {arrival.delivery_id for arrival in down.arrivals}
    # Each is taken or kept, and no more are kept than had to be.
    assert not taken & set(dead)
    assert len(taken) + len(dead) == TOTAL
    assert 50 <= len(taken) <= 100 + SLACK
    assert_oldest(dead, EXPECTED.deliveries)


def assert_oldest(dead: Collection[str], expected: Mapping[UUID, Sequence[Delivery]]) -> None:
    """No delivery is kept that has a newer one before it, but for those that were being tried."""
    overtaken = 0
    for deliveries in expected.values():
        kept = [delivery.delivery_id in dead for delivery in deliveries]
        if True in kept:
            last = len(kept) - kept[::-1].index(True)
            overtaken += kept[:last].count(False)
    # Two workers, with as many attempts at the same time as a webhook has.
    assert overtaken <= 2 * 16
