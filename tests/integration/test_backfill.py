"""`sinks backfill --from`: a sink added later gets what it missed, in order, before all else."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis.asyncio

from config.settings import Settings
from streams.dead_letters.store import LetterStore
from streams.events import SandboxEvent
from streams.sinks.backfill import BackfillError, SinkBackfill
from streams.sinks.missed import MissedEvents
from streams.transport import StreamConfig, StreamLayout, partition_of
from tests.command_line import run_command
from tests.event_log import generate
from tests.integration.test_delivery_retries import ONE, TWO, publish
from tests.letters import StoredLetter, complaint, everything, put
from tests.oracle import replay
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

PARTITIONS = 4
SOON = {"CAPSULES_READ_BLOCK_MS": "200", "CAPSULES_PARTITIONS": str(PARTITIONS)}
SINK = {"CAPSULES_SINKS": json.dumps([{"name": "late", "type": "log"}])}


async def backfill(
    ground: Ground, directory: Path, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = ground.settings(**(SOON | SINK | settings))
    return await asyncio.to_thread(
        run_command, directory, environment, "sinks", "backfill", *arguments
    )


def prepare(ground: Ground) -> None:
    """Have Redis as workers leave it that have no sink."""
    with ground.redis() as client:
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        client.hset(f"{PREFIX}topics", mapping={"capsules": PARTITIONS, "dead-letters": 1})
        for n in range(PARTITIONS):
            client.xgroup_create(f"{PREFIX}capsules:{n}", GROUP, id="0", mkstream=True)


def route(ground: Ground, source_id: str, capsule: UUID, *, done: bool) -> None:
    """Have an entry taken from the source, and dealt with or not."""
    stream = f"{PREFIX}capsules:{partition_of(capsule.bytes, PARTITIONS)}"
    with ground.redis() as client:
        client.xreadgroup(GROUP, "w", {SOURCE: ">"}, count=1)
        client.xack(SOURCE, GROUP, source_id)
        client.xadd(stream, {"k": capsule.bytes, "v": "{}", "h:source-id": source_id})
        if done:
            for _, found in client.xreadgroup(GROUP, "w", {stream: ">"}, count=1):
                client.xack(stream, GROUP, *(entry_id for entry_id, _ in found))


@asynccontextmanager
async def late_sink(ground: Ground) -> AsyncIterator[tuple[redis.asyncio.Redis, SinkBackfill]]:
    layout = StreamLayout(PREFIX)
    for topic, partitions in (("capsules", PARTITIONS), ("hooks.late", PARTITIONS)):
        layout.declare(topic, partitions, StreamConfig())
    layout.declare("dead-letters", 1, StreamConfig())
    settings = Settings(database_url=ground.database_url, redis_url=ground.redis_url)
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
        with LetterStore.opened(settings) as store:
            missed = MissedEvents(
                client,
                source=SOURCE,
                group=GROUP,
                layout=layout,
                died=store.died_in_the_pipeline,
                payload_max_bytes=10_000,
            )
            yield (
                client,
                SinkBackfill(client, "late", missed, group=GROUP, layout=layout, silence_s=0.3),
            )


def given_to(ground: Ground) -> list[str]:
    """The delivery ids in the topic of the sink, by partition and in order."""
    with ground.redis() as client:
        return [
            SandboxEvent.from_bytes(fields[b"v"]).delivery_id
            for n in range(PARTITIONS)
            for _, fields in client.xrange(f"{PREFIX}hooks.late:{n}")
        ]


async def test_all_that_a_capsule_has_had_is_sent_and_nothing_that_is_on_its_way(
    ground: Ground,
) -> None:
    prepare(ground)
    ids = [publish(ground, ONE) for _ in range(6)] + [publish(ground, TWO) for _ in range(2)]
    # Routed twice, and the second time not dealt with: it is behind what was done.
    for source_id, done in ((ids[1], True), (ids[0], True), (ids[2], True), (ids[3], False)):
        route(ground, source_id, ONE, done=done)
    route(ground, ids[1], ONE, done=False)
    died = publish(ground, ONE)
    [number] = put(ground, [StoredLetter("pause", reason="refused_by_postgres")])
    with ground.cursor() as cursor:
        cursor.execute(
            "update capsule_reconciler.dead_letters set origin_id = %s where id = %s",
            (ids[0], number),
        )
    async with late_sink(ground) as (_, sink):
        looked = await sink.run("0", "+", apply=False)
        assert given_to(ground) == []
        filled = await sink.run("0", "+", apply=True)
        again = await sink.run(ids[2], "+", apply=False)
    assert looked == filled
    assert (filled.events, filled.first_id, filled.last_id) == (2, ids[1], ids[2])
    assert given_to(ground) == ids[1:3]
    assert again.events == 1
    assert died not in given_to(ground)


async def test_it_may_be_done_again_until_somebody_has_read(ground: Ground) -> None:
    prepare(ground)
    ids = [publish(ground, ONE) for _ in range(3)]
    for source_id in ids:
        route(ground, source_id, ONE, done=True)
    stream = f"{PREFIX}hooks.late:{partition_of(ONE.bytes, PARTITIONS)}"
    async with late_sink(ground) as (client, sink):
        await sink.run(ids[2], "+", apply=True)
        await sink.run("0", ids[1], apply=True)
        assert given_to(ground) == ids[:2]
        assert await client.hget(f"{PREFIX}topics", "hooks.late") == b"4"
        await client.xreadgroup(GROUP, "w", {stream: ">"}, count=1)
        before = everything(ground)
        with pytest.raises(BackfillError, match="was sent events already"):
            await sink.run("0", "+", apply=True)
        assert everything(ground) == before


async def test_what_the_workers_sent_is_not_overtaken(ground: Ground) -> None:
    prepare(ground)
    with ground.redis() as client:
        client.xadd(f"{PREFIX}hooks.late:0", {"v": "{}"})
    before = everything(ground)
    async with late_sink(ground) as (_, sink):
        with pytest.raises(BackfillError, match="was sent events already"):
            await sink.run("0", "+", apply=True)
    assert everything(ground) == before


async def test_a_worker_that_starts_meanwhile_makes_it_fail(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(ground)
    route(ground, publish(ground, ONE), ONE, done=True)
    async with late_sink(ground) as (client, sink):
        plain = sink._stage

        async def stage(*arguments: Any) -> None:
            await plain(*arguments)
            await client.hset(f"{PREFIX}fleet:members", "token", "{}")

        monkeypatch.setattr(sink, "_stage", stage)
        with pytest.raises(BackfillError, match="a worker has started meanwhile"):
            await sink.run("0", "+", apply=True)
        assert await client.keys(f"{PREFIX}*late*") == []


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "told"),
    [
        (["gone", "--from", "0"], {}, 2, "gone: no such sink; there are: late"),
        (["late", "--from", "0"], {"CAPSULES_PARTITIONS": "5"}, 1, "there are 4 partitions in"),
    ],
)
async def test_what_cannot_be_done_changes_nothing(
    ground: Ground,
    tmp_path: Path,
    arguments: list[str],
    settings: dict[str, str],
    code: int,
    told: str,
) -> None:
    prepare(ground)
    before = everything(ground)
    assert told in complaint(await backfill(ground, tmp_path, *arguments, **settings), code)
    assert everything(ground) == before


async def test_a_sink_that_is_added_has_all_events_in_order_and_each_capsule_goes_on(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(7, events=600, capsules=40)
    ground.load(log.rows)
    first = WorkerProcess(tmp_path / "first", **ground.settings(**SOON))
    await first.wait_for("partitions_taken")
    ground.publish(log.entries[:300])
    await eventually(ground.drained, what="the first half")
    ground.publish(log.entries[300:500])
    async with Receiver() as receiver:
        late = json.loads(receiver.settings()["CAPSULES_SINKS"])[0] | {"name": "late"}
        settings = {"CAPSULES_SINKS": json.dumps([late])}
        told = complaint(await backfill(ground, tmp_path, "late", "--from", "0", **settings), 1)
        assert told.startswith("stop all workers first: ")
        # Cut off anywhere in the second half.
        first.kill()
        ground.publish(log.entries[500:])
        done = await backfill(ground, tmp_path, "late", "--from", "0", **settings)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("gave late ")
        second = WorkerProcess(tmp_path / "second", **ground.settings(**(SOON | settings)))
        await second.wait_for("partitions_taken")
        await eventually(ground.drained, what="all done")
        assert await second.stop() == 0
    assert ground.outcome(receiver).deliveries == dict(replay(log.rows, log.entries).deliveries)
