"""Housekeeping on real servers: what nobody needs goes, what anybody may need stays."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import faust
import psycopg2
import pytest
import redis.asyncio

from config.embedded import EphemeralServers
from config.settings import Settings
from streams.errors import DatabaseUnavailableError
from streams.events import EntryId
from streams.housekeeping.housekeeping import Housekeeping
from streams.housekeeping.old_watermarks import OldWatermarks
from streams.postgres import Postgres
from streams.topics import make_topics
from streams.transport import StreamConfig, StreamLayout
from streams.unfinished import oldest_unfinished
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import WorkerProcess, eventually

KEEP_DAYS = 30
SHORT = {"CAPSULES_HOUSEKEEPING_INTERVAL_S": "1"}


def add_mark(ground: Ground, number: int, *, days: float, mark: str = "5-7") -> None:
    ms, seq = mark.split("-")
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into capsule_reconciler.watermarks"
            " values (%s, %s, %s, now() - %s * interval '1 day')",
            (str(UUID(int=number)), ms, seq, days),
        )


def add_row(ground: Ground, number: int, status: str, *, days: float | None) -> None:
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into sandboxes (id, status, last_updated)"
            " values (%s, %s, now() - %s::float * interval '1 day')",
            (str(UUID(int=number)), status, days),
        )


def marks(ground: Ground) -> set[int]:
    return {capsule_id.int for capsule_id in ground.watermarks()}


def chore(postgres: Postgres, *, oldest: EntryId | None = None, **limits: int) -> OldWatermarks:
    async def oldest_unfinished() -> EntryId | None:
        return oldest

    return OldWatermarks(
        postgres, keep_days=KEEP_DAYS, oldest_unfinished=oldest_unfinished, **limits
    )


async def counts(chore: OldWatermarks) -> list[int]:
    return [count async for count in chore.run()]


@pytest.mark.parametrize(
    ("days", "status", "row_days", "goes"),
    [
        (31, None, None, True),
        (29, None, None, False),
        (31, "stopped", 31, True),
        (31, "missing", 31, True),
        (31, "error", 31, True),
        (31, "stopped", None, True),
        (31, "stopped", 29, False),
        (29, "stopped", 31, False),
        *(
            (400, status, 400, False)
            for status in ("pending", "starting", "running", "pausing", "paused", "resuming")
        ),
        (400, "snapshotting", 400, False),
        (400, "stopping", 400, False),
        (400, "a new word", 400, False),
    ],
)
async def test_only_the_mark_of_a_capsule_that_is_long_gone_is_removed(
    ground: Ground,
    postgres: Postgres,
    days: int,
    status: str | None,
    row_days: int | None,
    goes: bool,
) -> None:
    add_mark(ground, 1, days=days)
    if status is not None:
        add_row(ground, 1, status, days=row_days)
    assert await counts(chore(postgres)) == [int(goes)]
    assert marks(ground) == (set() if goes else {1})


@pytest.mark.parametrize(
    ("oldest", "goes"),
    [
        (EntryId(5, 8), True),
        (EntryId(6, 0), True),
        (EntryId(2**64 - 1, 2**64 - 1), True),
        (None, True),
        (EntryId(5, 7), False),
        (EntryId(4, 9), False),
        (EntryId(0, 0), False),
    ],
)
async def test_a_mark_stays_while_an_entry_that_it_has_seen_may_come_again(
    ground: Ground, postgres: Postgres, oldest: EntryId | None, goes: bool
) -> None:
    add_mark(ground, 1, days=31, mark="5-7")
    assert await counts(chore(postgres, oldest=oldest)) == [int(goes)]


async def test_all_marks_are_looked_at_in_short_statements(
    ground: Ground, postgres: Postgres
) -> None:
    for number in range(57):
        # Crowded at the front, so that one look finds more than one statement removes.
        add_mark(ground, number, days=31 if number < 25 or number % 3 == 0 else 1)
    removed = await counts(chore(postgres, look_at=10, remove_max=4))
    assert max(removed) == 4
    assert sum(removed) == 25 + 10
    assert marks(ground) == {number for number in range(25, 57) if number % 3}
    assert sum(await counts(chore(postgres, look_at=10, remove_max=4))) == 0


async def test_a_mark_that_somebody_is_moving_is_neither_waited_for_nor_removed(
    ground: Ground, postgres: Postgres
) -> None:
    add_mark(ground, 1, days=31)
    add_mark(ground, 2, days=31)
    with closing(psycopg2.connect(ground.database_url)) as other:
        with other.cursor() as cursor:
            cursor.execute(
                "update capsule_reconciler.watermarks set ms = 9, updated_at = now()"
                " where capsule_id = %s",
                (str(UUID(int=1)),),
            )
        assert await counts(chore(postgres)) == [1]
        other.commit()
    assert await counts(chore(postgres)) == [0]
    assert marks(ground) == {1}


# -- The oldest entry that is not finished


async def oldest(ground: Ground) -> EntryId | None:
    topics = make_topics(faust.App("topics", broker="redis://"), Settings())
    layout = StreamLayout(PREFIX)
    layout.declare(SOURCE, 1, StreamConfig(external_key=SOURCE))
    layout.declare("capsules", 16, StreamConfig())
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
        return await oldest_unfinished(client, layout, topics, group=GROUP)


def routed(source_id: str) -> dict[str, str]:
    return {"k": "key", "v": "{}", "h:source-id": source_id}


async def test_where_nothing_waits_there_is_no_oldest_entry(ground: Ground) -> None:
    assert await oldest(ground) is None
    key = f"{PREFIX}capsules:2"
    with ground.redis() as client:
        for stream, fields in ((SOURCE, {"payload": "{}"}), (key, routed("3-1"))):
            entry = client.xadd(stream, fields, id="7-0")
            client.xgroup_create(stream, GROUP, "0")
            client.xreadgroup(GROUP, "owner", {stream: ">"})
            client.xack(stream, GROUP, entry)
    assert await oldest(ground) is None


@pytest.mark.parametrize("read", ["unread", "pending", "no group"])
async def test_what_is_unread_or_pending_anywhere_counts_by_its_source_id(
    ground: Ground, read: str
) -> None:
    key = f"{PREFIX}capsules:15"
    with ground.redis() as client:
        for stream, entry, fields in (
            (SOURCE, "40-0", {"payload": "{}"}),
            (SOURCE, "50-0", {"payload": "{}"}),
            (key, "90-0", routed("30-2")),
        ):
            client.xadd(stream, fields, id=entry)
        if read != "no group":
            for stream in (SOURCE, key):
                client.xgroup_create(stream, GROUP, "0")
                if read == "pending":
                    client.xreadgroup(GROUP, "owner", {stream: ">"})
    assert await oldest(ground) == EntryId(30, 2)
    with ground.redis() as client:
        client.delete(key)
    assert await oldest(ground) == EntryId(40, 0)


async def test_an_entry_that_cannot_say_where_it_is_from_counts_as_the_oldest(
    ground: Ground,
) -> None:
    key = f"{PREFIX}capsules:0"
    with ground.redis() as client:
        client.xadd(key, {"k": "key"}, id="90-0")
    assert await oldest(ground) == EntryId(0, 0)
    with ground.redis() as client:
        client.xgroup_create(key, GROUP, "0")
        client.xreadgroup(GROUP, "owner", {key: ">"})
        client.xdel(key, "90-0")
    assert await oldest(ground) == EntryId(0, 0)


# -- The runner


class Given:
    """A chore that does as it is told."""

    def __init__(self, name: str, *steps: int | Exception) -> None:
        self.name = name
        self.taken = 0
        self._steps = steps

    async def run(self) -> AsyncGenerator[int, None]:
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            self.taken += 1
            yield step


async def test_a_chore_that_fails_keeps_none_of_the_others_from_its_turn() -> None:
    last = Given("last", 3, 4)
    chores = [
        Given("away", 1, DatabaseUnavailableError("no answer")),
        Given("wrong", RuntimeError("a fault")),
        last,
    ]
    await Housekeeping(chores, interval_s=1, is_ours=lambda: True).take_turn()
    assert last.taken == 2


async def test_it_ends_between_two_statements_when_it_is_another_workers() -> None:
    answers = iter([True, True, False, False])
    first, second = Given("first", 1, 1, 1, 1), Given("second", 1)
    housekeeping = Housekeeping([first, second], interval_s=1, is_ours=lambda: next(answers))
    await housekeeping.take_turn()
    assert (first.taken, second.taken) == (2, 0)


# -- In a worker


def turns(worker: WorkerProcess) -> list[dict[str, Any]]:
    return [record for record in worker.records() if record.get("action") == "housekeeping_done"]


async def test_a_worker_removes_what_is_old_and_goes_on_after_an_outage(
    ground: Ground, servers: EphemeralServers, tmp_path: Path
) -> None:
    add_mark(ground, 1, days=31)
    add_mark(ground, 2, days=31)
    add_row(ground, 2, "running", days=31)
    worker = WorkerProcess(tmp_path / "w", **ground.settings(**SHORT))
    await eventually(lambda: marks(ground) == {2}, what="the old mark is gone")
    await worker.wait_for("housekeeping_done")
    assert turns(worker)[0]["watermarks"] == 1
    assert turns(worker)[0]["level"] == "info"

    servers.stop_postgres()
    await worker.wait_for("housekeeping_failed")
    servers.start_postgres()
    add_mark(ground, 3, days=31)
    await eventually(lambda: marks(ground) == {2}, what="the next old mark is gone")
    assert await worker.stop() == 0


async def test_a_worker_keeps_a_mark_while_an_older_entry_waits(
    ground: Ground, tmp_path: Path
) -> None:
    add_mark(ground, 1, days=31, mark="900-0")
    with ground.redis() as client:
        # Pending for the consumer that is being replaced: not taken over before it is idle.
        client.xadd(SOURCE, {"payload": "{}"}, id="800-0")
        client.xgroup_create(SOURCE, GROUP, "0")
        client.xreadgroup(GROUP, "somebody-else", {SOURCE: ">"})
    worker = WorkerProcess(tmp_path / "w", **ground.settings(**SHORT))
    await eventually(lambda: len(turns(worker)) >= 2, what="two turns")
    assert marks(ground) == {1}
    with ground.redis() as client:
        client.xack(SOURCE, GROUP, "800-0")
    await eventually(lambda: marks(ground) == set(), what="the mark is gone")
    assert await worker.stop() == 0


async def test_of_two_workers_one_does_it_and_the_other_one_after_it(
    ground: Ground, tmp_path: Path
) -> None:
    workers = [WorkerProcess(tmp_path / name, **ground.settings(**SHORT)) for name in "ab"]
    await eventually(lambda: len(ground.shares()) == 2, what="both are there")
    await eventually(lambda: min(ground.shares()) > 0, what="both have a share")
    known = [len(turns(worker)) for worker in workers]

    def new() -> list[int]:
        return [len(turns(worker)) - n for worker, n in zip(workers, known, strict=True)]

    await eventually(lambda: max(new()) >= 4, what="four turns")
    # The partition may have moved while the first of them was under way.
    assert min(new()) <= 1
    at_it = workers.pop(new().index(max(new())))
    [other] = workers
    before = len(turns(other))
    assert await at_it.stop() == 0
    await eventually(lambda: len(turns(other)) > before, what="the other one's turn")
    assert await other.stop() == 0
