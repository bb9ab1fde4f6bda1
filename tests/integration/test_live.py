"""Live figures are the truth: what waits, what went over which edge, who reads what."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import redis.asyncio

from streams.figures.backlog import read_backlogs
from streams.transport import StreamConfig, StreamLayout
from tests.event_log import generate
from tests.oracle import replay
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually


async def test_what_waits_is_counted_right_also_after_the_producer_trimmed(redis_url: str) -> None:
    """Against a plain count, at fifty random moments of publishing, reading and trimming."""
    rng = random.Random(7)
    layout = StreamLayout(PREFIX)
    layout.declare(SOURCE, 1, StreamConfig(external_key=SOURCE))
    layout.declare("capsules", 1, StreamConfig())
    unread: dict[bytes, list[Any]] = {SOURCE.encode(): [], f"{PREFIX}capsules:0".encode(): []}
    pending: Counter[bytes] = Counter()
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        for key in unread:
            await client.xgroup_create(key, GROUP, id="0", mkstream=True)
        for _ in range(50):
            for key, ids in unread.items():
                for _ in range(rng.randrange(40)):
                    ids.append(await client.xadd(key, {"f": "v"}))
                count = rng.randrange(1, 40)
                read: Any = await client.xreadgroup(GROUP, "owner", {key: ">"}, count=count)
                for _, entries in read:
                    pending[key] += len(entries)
                    del ids[: len(entries)]
            if rng.random() < 0.3 and unread[SOURCE.encode()]:
                keep = rng.randrange(len(unread[SOURCE.encode()]))
                await client.xtrim(SOURCE, minid=unread[SOURCE.encode()][keep], approximate=False)
                del unread[SOURCE.encode()][:keep]
            found = await read_backlogs(client, layout, [SOURCE, "capsules"], group=GROUP)
            for stream, backlog in found.by_stream.items():
                assert backlog.unread == len(unread[stream.key])
                assert backlog.pending == pending[stream.key]
                assert (backlog.oldest_age_s is None) == (backlog.entries == 0)


def told(ground: Ground, delivered: int) -> bool:
    """Whether a worker has said in Redis that it has delivered so many."""
    with ground.redis() as client:
        said = [json.loads(raw) for raw in client.hvals(f"{PREFIX}figures")]
    return [w["stages"]["hook.receiver"]["outcomes"].get("done", 0) for w in said] == [delivered]


def picture(ground: Ground, directory: Path, **settings: str) -> dict[str, Any]:
    """What ``topology --live --format json`` prints."""
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "faust",
            "-A",
            "streams.app",
            "topology",
            "--live",
            "--format",
            "json",
        ],
        cwd=directory,
        env=WorkerProcess.environment(**ground.settings(**settings)),
        capture_output=True,
        timeout=30,
        check=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


async def test_each_edge_says_what_went_over_it(ground: Ground, tmp_path: Path) -> None:
    log = generate(51, events=2_000, capsules=100)
    expected = replay(log.rows, log.entries)
    delivered = sum(map(len, expected.deliveries.values()))
    ground.load(log.rows)
    async with Receiver() as receiver:
        settings = receiver.settings()
        worker = WorkerProcess(tmp_path, **ground.settings(**settings))
        await worker.wait_for("partitions_taken")
        ground.publish(log.entries)
        await eventually(ground.drained, what="all done")
        await eventually(lambda: told(ground, delivered), what="figures of all of it")
        live = await asyncio.to_thread(picture, ground, tmp_path, **settings)
        assert await worker.stop() == 0
    over = {(edge["from"], edge["to"]): edge["entries"] for edge in live["edges"]}
    assert over[SOURCE, "route"] == len(log.entries)
    assert over["dead-letters", "keep"] == len(expected.dead_lettered)
    assert over["route", "capsules"] == over["capsules", "dispatch"]
    assert (
        sum(n for (source, _), n in over.items() if source == "dispatch")
        == (over["capsules", "dispatch"])
    )
    for name in ("create", "resume", "pause", "destroy", "failure"):
        assert over["dispatch", f"lane.{name}"] == over[f"lane.{name}", name] > 0
    assert over["failure", "audit_logs"] == len(expected.audit)
    assert over["hooks.receiver", "hook.receiver"] == delivered
    assert over["hook.receiver", "sink.receiver"] == delivered
    (said,) = live["workers"]
    assert said["not_ready"] == ""
    nodes = {node["name"]: node for node in live["nodes"]}
    assert set(nodes["capsules"]["owners"].values()) == {said["worker"]}
    assert len(nodes["capsules"]["owners"]) == 16
    assert sum(nodes["route"]["figures"]["outcomes"].values()) == len(log.entries)
    assert nodes["hook.receiver"]["figures"]["end_to_end_ms"]["p99"] > 0
    assert all(node["state"] in ("idle", "busy") for node in live["nodes"])
