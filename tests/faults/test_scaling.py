"""What an autoscaler is told is what is left to do, and nothing where that is not known."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from config.embedded import EphemeralServers
from streams.operations.scaling import ENTRIES_PER_WORKER
from tests.event_log import generate
from tests.integration.watching import WatchedWorker
from tests.reconciliation import Ground, Receiver


async def test_the_backlog_is_what_is_not_done_and_a_dead_sink_asks_for_nobody(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    log = generate(81, events=ENTRIES_PER_WORKER * 3, capsules=200)
    ground.load(log.rows)
    async with Receiver() as receiver:
        sinks = json.loads(receiver.settings()["CAPSULES_SINKS"])
    worker = WatchedWorker(tmp_path, **ground.settings(CAPSULES_SINKS=json.dumps(sinks)))
    await worker.answers("/readyz", 200, timeout_s=30)
    _, idle = await worker.ask("/scaling")
    assert (idle["backlog"], idle["desired_workers"], idle["partitions"]) == (0, 1, 16)
    ground.publish(log.entries)
    await worker.answers("/readyz", 200, blaming="sink.receiver")
    found = idle
    async with asyncio.timeout(30):
        while not found["backlog"] == found["held_up"] == ground.waiting("hooks.receiver") > 0:
            await asyncio.sleep(0.5)
            _, found = await worker.ask("/scaling")
    assert found["by_topic"]["hooks.receiver"] == found["backlog"] > 100
    assert (found["desired_workers"], found["workers"]) == (1, 1)
    servers.stop_redis()
    error = await worker.answers("/scaling", 503)
    assert "not known" in error["error"]
    servers.start_redis()
    await worker.answers("/scaling", 200, timeout_s=20)
    worker.kill()
