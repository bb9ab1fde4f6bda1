"""Three sinks at once: two are away for a while, and workers die while they deliver."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp import web

from tests.event_log import generate
from tests.faults.account import settled
from tests.faults.scene import SMALL, FaultyReceiver
from tests.faults.test_sink_outages import says
from tests.oracle import Outcome, replay
from tests.reconciliation import PREFIX, Ground, Receiver, assert_same
from tests.worker_process import WorkerProcess, eventually

KILLS = 20


class Idempotent(FaultyReceiver):
    """A receiver that accepts each delivery once, whatever else it does meanwhile."""

    async def _take(self, request: web.Request) -> web.Response:
        delivery_id = request.headers["webhook-id"]
        if self.answer is None and any(a.delivery_id == delivery_id for a in self.arrivals[-400:]):
            return web.Response(status=204)
        return await super()._take(request)


def sinks(receivers: Mapping[str, Receiver], **more: object) -> dict[str, str]:
    """The setting that has a worker deliver to all of these."""
    given = [
        json.loads(receiver.settings()["CAPSULES_SINKS"])[0]
        | {"name": name, "breaker_pause_s": 0.5, "retry_pause_max_s": 2}
        | more
        for name, receiver in receivers.items()
    ]
    return {"CAPSULES_SINKS": json.dumps(given)}


def assert_each_has_all(
    ground: Ground, receivers: Mapping[str, Receiver], expected: Outcome
) -> None:
    """Every event is at each sink, in order by capsule, and as the oracle says."""
    for receiver in receivers.values():
        assert_same(ground.outcome(receiver), expected)


async def test_sinks_that_were_away_get_everything_in_order_and_accept_nothing_twice(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(95, events=1_500, capsules=150)
    expected = replay(log.rows, log.entries)
    total = sum(map(len, expected.deliveries.values()))
    ground.load(log.rows)
    over = asyncio.Event()

    async def hangs(_request: web.Request) -> web.Response:
        await over.wait()
        return web.Response(status=503)

    async with Idempotent() as fast, Idempotent() as failing, Idempotent() as hanging:
        failing.answer, hanging.answer = says(503), hangs
        receivers = {"fast": fast, "failing": failing, "hanging": hanging}
        worker = WorkerProcess(tmp_path, **ground.settings(**sinks(receivers), **SMALL))
        await worker.wait_for("partitions_taken")
        ground.publish(log.entries)
        await eventually(lambda: len(fast.arrivals) == total, what="all at the fast sink")
        await eventually(lambda: ground.outcome().rows == expected.rows, what="all rows")
        opened = {"failing", "hanging"}
        await eventually(
            lambda: opened == {r["sink"] for r in worker.records() if is_opened(r)},
            what="both breakers open",
        )
        assert failing.arrivals == hanging.arrivals == []
        failing.answer = hanging.answer = None
        over.set()
        await eventually(lambda: settled(ground), what="all done", timeout_s=60)
        assert await worker.stop() == 0
    assert_each_has_all(ground, receivers, expected)
    for receiver in receivers.values():
        accepted = Counter(arrival.delivery_id for arrival in receiver.arrivals)
        assert set(accepted.values()) == {1}
    assert {r["sink"] for r in worker.records() if r.get("action") == "breaker_closed"} == opened


def is_opened(record: Mapping[str, object]) -> bool:
    return record.get("action") == "breaker_opened"


def delivered(receivers: Mapping[str, Receiver]) -> int:
    return sum(len(receiver.arrivals) for receiver in receivers.values())


@pytest.mark.timeout(240)
async def test_no_delivery_is_missing_at_any_sink_after_twenty_kills(
    ground: Ground, tmp_path: Path
) -> None:
    rng = random.Random(96)
    log = generate(96, events=3_000, capsules=150)
    expected = replay(log.rows, log.entries)
    total = 3 * sum(map(len, expected.deliveries.values()))
    ground.load(log.rows)
    async with Receiver() as one, Receiver() as two, Receiver() as three:
        receivers = {"one": one, "two": two, "three": three}
        # Slow enough that there is something left to be killed in.
        settings = ground.settings(**sinks(receivers, rate_limit_per_s=400), **SMALL)
        ground.publish(log.entries)
        killed_while_delivering = 0
        workers = [WorkerProcess(tmp_path / "0", **settings)]
        for kill in range(KILLS):
            # The next one is on its way while this one works: it takes over after a lease.
            workers.append(WorkerProcess(tmp_path / str(kill + 1), **settings))
            moment = delivered(receivers) + rng.randrange(1, total // (2 * KILLS))
            await eventually(
                lambda moment=moment: delivered(receivers) >= moment,  # type: ignore[misc]
                what=f"delivery {moment}",
            )
            workers[kill].kill()
            killed_while_delivering += delivered(receivers) < total
        assert killed_while_delivering == KILLS
        await eventually(lambda: settled(ground), what="all done", timeout_s=90)
        assert await workers[-1].stop() == 0
    assert_each_has_all(ground, receivers, expected)
    with ground.redis() as client:
        assert client.keys(f"{PREFIX}retries:*") == []
