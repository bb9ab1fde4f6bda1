"""The backlog shown is the truth: while much waits or is worked off, and after trimming."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from uuid import UUID

import psycopg2
import redis.asyncio

from streams.figures.backlog import read_backlogs
from streams.transport import StreamConfig, StreamLayout
from tests.event_log import textual_id
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import WorkerProcess, eventually


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


#: At each look: in how many places batches are under way. In one, effects are held up meanwhile.
PLACES = (2, 1, 1, 1, 2, 1, 1, 1, 2, 1)


@contextmanager
def writing_held_up(ground: Ground) -> Iterator[None]:
    """Let no audit row be written meanwhile."""
    with closing(psycopg2.connect(ground.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("lock table audit_logs in share mode")
        yield
        connection.rollback()


async def test_the_backlog_shown_is_what_was_published_and_has_no_effect_yet(
    ground: Ground, tmp_path: Path
) -> None:
    batch = 250
    worker = WorkerProcess(
        tmp_path,
        **ground.settings(
            CAPSULES_LEASE_S="20",
            CAPSULES_LANE_BATCH_MAX=str(batch),
            CAPSULES_FETCH_COUNT=str(batch),
            CAPSULES_LOCK_TIMEOUT_MS="100",
        ),
    )
    await worker.wait_for("partitions_taken")
    counts = Counts(ground, worker)
    rng = random.Random(3)
    published = 0
    looks: list[tuple[int, int]] = []
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

        for moment in range(len(PLACES)):
            if moment == 5:  # the producer trims what was not read
                worker.signal(signal.SIGSTOP)
                await publish(3_000, maxlen=500)
                worker.signal(signal.SIGCONT)
                await worker.wait_for("entries_lost")
                await eventually(lambda: in_gaps(ground) > 0, what="the gap")
            # Most of the time much waits, so that it matters what is shown; or it is worked off.
            with writing_held_up(ground) if PLACES[moment] == 1 else nullcontext():
                for _ in range(rng.randrange(40, 80)):
                    await publish(20)
                    await asyncio.sleep(rng.random() * 0.02)
                looks.append(await counts.look(published))
    # Counted twice is what is routed, or committed, and not acknowledged yet. In each of the two
    # places that is the batch in work, and one whose acknowledgement is on its way.
    for (reckoned, shown), places in zip(looks, PLACES, strict=True):
        assert abs(reckoned - shown) <= 2 * batch * places, looks
    assert sum(reckoned > 4 * batch for reckoned, _ in looks) >= 5, looks
    await eventually(ground.drained, what="all done")
    assert await counts.look(published) == (0, 0)
    assert in_gaps(ground) >= 2_000
    assert await worker.stop() == 0


def in_gaps(ground: Ground) -> int:
    with ground.cursor() as cursor:
        cursor.execute("select coalesce(sum(entries), 0) from capsule_reconciler.gaps")
        return int(cursor.fetchone()[0])
