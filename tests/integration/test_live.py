"""Live figures are the truth: what waits, what went over which edge, who reads what."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import redis.asyncio

from streams.backlog import read_backlogs
from streams.transport import StreamConfig, StreamLayout
from tests.event_log import generate, textual_id
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


def failed_create(number: int) -> bytes:
    """A report that leaves exactly one audit row, of a capsule of its own."""
    event = {
        "event": "capsule.create",
        "outcome": "error",
        "team_id": textual_id("team-", UUID(int=7)),
        "actor": {"type": "system"},
        "resource": {"id": textual_id("cl-", UUID(int=number + 1)), "type": "sandbox"},
    }
    return json.dumps(event).encode()


class Counts:
    """What an outsider sees: entries published, rows written, entries lost, and the backlog shown.

    The worker is frozen while it looks, so that all of it is of one moment.
    """

    def __init__(self, ground: Ground, worker: WorkerProcess) -> None:
        self._ground = ground
        self._worker = worker
        self._layout = StreamLayout(PREFIX)
        self._layout.declare(SOURCE, 1, StreamConfig(external_key=SOURCE))
        self._layout.declare("capsules", 16, StreamConfig())

    async def look(self, published: int) -> tuple[int, int]:
        """Return what is left to do, as reckoned from outside and as shown."""
        self._worker.signal(signal.SIGSTOP)
        try:
            with self._ground.cursor() as cursor:
                cursor.execute("select count(*) from audit_logs")
                (effects,) = cursor.fetchone()
                cursor.execute("select coalesce(sum(entries), 0) from capsule_reconciler.gaps")
                (lost,) = cursor.fetchone()
            async with redis.asyncio.Redis.from_url(self._ground.redis_url) as client:
                found = await read_backlogs(client, self._layout, [SOURCE, "capsules"], group=GROUP)
        finally:
            self._worker.signal(signal.SIGCONT)
        shown = found.of(SOURCE).entries + found.of("capsules").entries
        return published - effects - int(lost), shown


async def test_the_backlog_shown_is_what_was_published_and_has_no_effect_yet(
    ground: Ground, tmp_path: Path
) -> None:
    batch = 100
    worker = WorkerProcess(
        tmp_path,
        **ground.settings(
            CAPSULES_LEASE_S="20",
            CAPSULES_LANE_BATCH_MAX=str(batch),
            CAPSULES_FETCH_COUNT=str(batch),
        ),
    )
    await worker.wait_for("partitions_taken")
    counts = Counts(ground, worker)
    rng = random.Random(3)
    published = 0
    off_by = []
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:

        async def publish(n: int, *, maxlen: int | None = None) -> None:
            nonlocal published
            pipeline = client.pipeline(transaction=False)
            for number in range(published, published + n):
                pipeline.xadd(
                    SOURCE, {"payload": failed_create(number)}, maxlen=maxlen, approximate=False
                )
            await pipeline.execute()
            published += n

        for moment in range(10):
            if moment == 5:  # the producer trims what was not read
                worker.signal(signal.SIGSTOP)
                await publish(3_000, maxlen=500)
                worker.signal(signal.SIGCONT)
                await worker.wait_for("entries_lost")
                await eventually(lambda: in_gaps(ground) > 0, what="the gap")
            for _ in range(rng.randrange(5, 30)):  # at 1,000 a second
                await publish(20)
                await asyncio.sleep(0.02)
            reckoned, shown = await counts.look(published)
            off_by.append(abs(reckoned - shown))
    # What is committed, or routed, and not acknowledged yet.
    assert max(off_by) <= batch, off_by
    await eventually(ground.drained, what="all done")
    assert await counts.look(published) == (0, 0)
    assert in_gaps(ground) >= 2_000
    assert await worker.stop() == 0


def in_gaps(ground: Ground) -> int:
    with ground.cursor() as cursor:
        cursor.execute("select coalesce(sum(entries), 0) from capsule_reconciler.gaps")
        return int(cursor.fetchone()[0])
