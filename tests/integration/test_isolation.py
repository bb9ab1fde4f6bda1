"""A sink that is down delays only itself, and gets everything when it is back."""

from __future__ import annotations

import json
from pathlib import Path

from aiohttp import web

from tests.event_log import generate
from tests.oracle import replay
from tests.reconciliation import SOURCE, Ground, Receiver, assert_same
from tests.worker_process import WorkerProcess, eventually


class Moody(Receiver):
    """A receiver that answers 503 for as long as it is down."""

    down = True

    async def _take(self, request: web.Request) -> web.Response:
        if self.down:
            return web.Response(status=503)
        return await super()._take(request)


async def test_a_sink_that_is_down_delays_no_other_and_loses_nothing(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(41, events=3_000, capsules=300)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    async with Receiver() as healthy, Moody() as moody:
        sinks = [
            json.loads(receiver.settings()["CAPSULES_SINKS"])[0] | {"name": name}
            for name, receiver in (("healthy", healthy), ("moody", moody))
        ]
        worker = WorkerProcess(tmp_path, **ground.settings(CAPSULES_SINKS=json.dumps(sinks)))
        await worker.wait_for("partitions_taken")
        ground.publish(log.entries)
        total = sum(map(len, expected.deliveries.values()))
        await eventually(lambda: len(healthy.arrivals) == total, what="all at the healthy sink")
        await eventually(lambda: not ground.waiting("capsules"), what="Postgres in line")
        assert_same(ground.outcome(healthy), expected)
        assert moody.arrivals == []
        await worker.wait_for("delivery_retry")
        assert ground.waiting("hooks.moody") == total
        moody.down = False
        await eventually(ground.drained, what="all at the moody sink", timeout_s=60)
        assert await worker.stop() == 0
        assert moody.first_deliveries() == dict(expected.deliveries)
        assert len(healthy.arrivals) == total


async def test_a_failed_delivery_is_made_again_by_the_next_worker(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(42, events=300, capsules=30)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    async with Moody() as moody:
        first = WorkerProcess(tmp_path / "first", **ground.settings(**moody.settings()))
        await first.wait_for("partitions_taken")
        ground.publish(log.entries)
        await first.wait_for("delivery_retry")
        assert await first.stop() == 0
        moody.down = False
        second = WorkerProcess(tmp_path / "second", **ground.settings(**moody.settings()))
        await eventually(ground.drained, what="all done", timeout_s=60)
        assert await second.stop() == 0
        assert_same(ground.outcome(moody), expected)


async def test_a_bad_entry_is_kept_whole_and_stops_nothing(ground: Ground, tmp_path: Path) -> None:
    log = generate(43, events=10, capsules=3)
    worker = WorkerProcess(tmp_path, **ground.settings())
    await worker.wait_for("partitions_taken")
    huge = b'{"event": "' + b"x" * 20_000_000 + b'"}'
    with ground.redis() as client:
        bad_id = client.xadd(SOURCE, {"payload": huge, "trace": b"\xff\x00"})
        other_id = client.xadd(SOURCE, {"nothing": b"here"})
        client.xadd(SOURCE, {"payload": log.entries[0][1] or b"{}"})
    await worker.wait_for("dead_letter")
    await eventually(ground.drained, what="all done")
    with ground.cursor() as cursor:
        cursor.execute(
            "select origin_id, payload, field_names, field_values, error, stage, reason, attempts"
            " from capsule_reconciler.dead_letters"
        )
        letters = {row[0].encode(): row[1:] for row in cursor.fetchall()}
    payload, names, values, error, *rest = letters[bad_id]
    assert bytes(payload) == huge
    assert (b"".join(names), b"".join(values)) == (b"trace", b"\xff\x00")
    assert "20000013 bytes" in error
    assert rest == ["route", "bad_entry", 1]
    payload, names, values, error, *_ = letters[other_id]
    assert (payload, bytes(names[0]), bytes(values[0])) == (None, b"nothing", b"here")
    assert error == "payload: absent"
    assert await worker.stop() == 0
    # The log names it and does not repeat it.
    assert worker.log_path.stat().st_size < 1_000_000
