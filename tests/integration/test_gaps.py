"""Lost entries end to end: each is in the table, all else is done, and the worker goes on."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streams.gaps import Gap, close_gap, read_gaps
from streams.ids import format_capsule_id
from streams.journal import DEAD_LETTERS_DROPPED, PostgresJournal
from streams.postgres import Postgres
from streams.transport import Loss, LossKind
from tests.command_line import run_command
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import ROOT, WorkerProcess, eventually

TEAM = "team-0000000000000000000000001"


def payload() -> bytes:
    """An event that is delivered to the hooks, and changes no row."""
    event = {
        "event": "capsule.destroy",
        "outcome": "success",
        "timestamp": "2026-03-01T12:00:00Z",
        "team_id": TEAM,
        "actor": {"type": "system"},
        "resource": {"id": format_capsule_id(uuid.uuid4()), "type": "sandbox"},
    }
    return json.dumps(event).encode()


@dataclass
class Flow:
    """A producer, and a receiver that tells what was done by the ids of the source's entries."""

    ground: Ground
    receiver: Receiver
    directory: Path
    workers: list[WorkerProcess] = field(default_factory=list)

    def worker(self, **settings: str) -> WorkerProcess:
        """Start a worker that begins at `$`."""
        defaults = {
            "CAPSULES_SOURCE_START_ID": "$",
            "CAPSULES_READ_BLOCK_MS": "200",
            "CAPSULES_PARTITIONS": "2",
        }
        environment = self.ground.settings(**(defaults | self.receiver.settings() | settings))
        directory = self.directory / str(len(self.workers))
        self.workers.append(WorkerProcess(directory, **environment))
        return self.workers[-1]

    def end(self) -> None:
        """Leave no worker behind, also after a failure."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()

    def publish(self, count: int, *, maxlen: int | None = None) -> list[str]:
        """Append entries, as the producer does."""
        with self.ground.redis() as client:
            pipeline = client.pipeline(transaction=False)
            for _ in range(count):
                pipeline.xadd(SOURCE, {"payload": payload()}, maxlen=maxlen, approximate=False)
            return [entry_id.decode() for entry_id in pipeline.execute()]

    def redis(self, work: Callable[[Any], Any]) -> Any:
        """Do `work` with a client."""
        with self.ground.redis() as client:
            return work(client)

    def done(self) -> set[str]:
        """The ids of the source's entries that were delivered to the hooks."""
        return {delivery.delivery_id for delivery in self.receiver.arrivals}

    def gaps(self) -> list[Gap]:
        """What is in the table."""
        return read_gaps(self.ground.database_url, app_id=GROUP)

    def lost(self) -> int:
        """All entries in the table."""
        return sum(gap.entries or 0 for gap in self.gaps())

    async def until_done(self, ids: list[str]) -> None:
        """Wait until all of `ids` are done."""
        await eventually(lambda: set(ids) <= self.done(), what="the entries done", timeout_s=60)

    async def until_gaps(self, count: int) -> list[Gap]:
        """Wait until there are as many gaps."""
        await eventually(lambda: len(self.gaps()) >= count, what=f"{count} gaps", timeout_s=30)
        return self.gaps()

    async def until_remembered(self, entry_id: str) -> None:
        """Wait until Postgres knows that the source was read up to `entry_id`."""

        def check() -> bool:
            with self.ground.cursor() as cursor:
                cursor.execute("select entry_id from capsule_reconciler.positions")
                return bool(cursor.fetchall() == [(entry_id,)])

        await eventually(check, what="the position remembered")


@pytest.fixture
async def flow(ground: Ground, tmp_path: Path) -> AsyncIterator[Flow]:
    async with Receiver() as receiver:
        flow = Flow(ground, receiver, tmp_path)
        yield flow
        flow.end()


def source_gaps(found: list[Gap]) -> list[Gap]:
    return [gap for gap in found if gap.stream == SOURCE]


async def test_whatever_happens_to_the_source_is_in_the_table_and_the_worker_goes_on(
    flow: Flow,
) -> None:
    worker = flow.worker()
    await worker.wait_for("partitions_taken")
    first = flow.publish(5)
    await flow.until_done(first)

    flow.redis(lambda client: client.xgroup_destroy(SOURCE, GROUP))
    second = flow.publish(3)
    await flow.until_done(second)
    (gap,) = await flow.until_gaps(1)
    assert (gap.kind, gap.stream, gap.entries) == ("group_lost", SOURCE, 0)
    assert (gap.after_id, gap.before_id) == (first[-1], first[0])

    flow.redis(lambda client: client.delete(SOURCE))
    third = flow.publish(3)
    await flow.until_done(third)
    *_, gap = await flow.until_gaps(2)
    assert (gap.kind, gap.stream, gap.after_id) == ("stream_recreated", SOURCE, second[-1])

    flow.redis(lambda client: client.flushall())
    fourth = flow.publish(3)
    await flow.until_done(fourth)
    # The source, and of two partitions each the capsules and the sink; and the dead letters.
    await flow.until_gaps(2 + 1 + 2 + 2 + 1)
    flushed = flow.gaps()[2:]
    assert {gap.kind for gap in flushed} == {"stream_recreated"}
    assert sorted(gap.stream for gap in flushed) == sorted(
        {
            SOURCE,
            *(f"{PREFIX}{topic}:{n}" for topic in ("capsules", "hooks.receiver") for n in "01"),
        }
        | {f"{PREFIX}dead-letters:0"}
    )
    (gap,) = source_gaps(flushed)
    assert gap.after_id == third[-1]

    flow.redis(lambda client: client.delete(SOURCE))
    flow.redis(lambda client: client.xadd(SOURCE, {"payload": payload()}, id="7-0"))
    await eventually(
        lambda: any(gap.kind == "ids_backwards" for gap in flow.gaps()), what="ids backwards"
    )
    (gap,) = (gap for gap in flow.gaps() if gap.kind == "ids_backwards")
    assert gap.after_id == "7-0"
    assert await worker.stop() == 0
    for action in ("group_lost", "stream_recreated", "ids_backwards"):
        assert worker.said(action)


# -- The journal


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(
        database_url,
        pool_size=4,
        connect_timeout_s=5,
        statement_timeout_ms=5_000,
        lock_timeout_ms=3_000,
    )
    await postgres.open()
    yield postgres
    await postgres.close()


def counted(total: int, entries: int) -> Loss:
    return Loss(
        kind=LossKind.TRIMMED_UNREAD,
        stream="s",
        after_id="1-0",
        before_id="9-0",
        entries=entries,
        account="one",
        total=total,
    )


async def test_of_a_loss_that_is_reported_again_only_what_is_new_counts(
    postgres: Postgres, database_url: str
) -> None:
    journal = PostgresJournal(postgres, app_id="app", worker=lambda: "w")
    for total, entries in ((5, 5), (5, 5), (8, 8), (7, 2), (8, 3)):
        await journal.record(counted(total, entries))
    assert [gap.entries for gap in read_gaps(database_url, app_id="app")] == [5, 3]


async def test_ids_that_are_reported_again_in_other_portions_count_once(
    postgres: Postgres, database_url: str
) -> None:
    journal = PostgresJournal(postgres, app_id="app", worker=lambda: "w")
    ids = [f"{n}-0" for n in range(1, 2_501)]
    for start, end in ((0, 1_500), (1_000, 2_500), (0, 2_500)):
        lost = tuple(ids[start:end])
        await journal.record(
            Loss(
                kind=LossKind.TRIMMED_PENDING,
                stream="s",
                entries=len(lost),
                ids=lost,
                account=uuid.uuid4().hex,
            )
        )
    await journal.record_dropped("s", ids[:3])
    found = read_gaps(database_url, app_id="app")
    assert sum(gap.entries or 0 for gap in found) == 2_500 + 3
    assert max(len(gap.entry_ids) for gap in found) <= 1_000
    pending = [gap for gap in found if gap.kind == "trimmed_pending"]
    assert sorted(i for gap in pending for i in gap.entry_ids) == sorted(ids)
    assert (found[-1].kind, found[-1].entry_ids) == (DEAD_LETTERS_DROPPED, ids[:3])


# -- The command


def command(ground: Ground, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(ROOT, ground.settings(LOG_LEVEL="warning"), "gaps", *arguments, columns=200)


async def test_the_command_shows_gaps_and_closes_them(ground: Ground, postgres: Postgres) -> None:
    assert "no open gaps" in command(ground).stdout
    journal = PostgresJournal(postgres, app_id=GROUP, worker=lambda: "w-1")
    await journal.record(counted(5, 5))
    await journal.record_dropped("s", ["3-1", "3-0"])
    first, second = json.loads(command(ground, "--json").stdout)
    assert (first["kind"], first["entries"], first["worker"]) == ("trimmed_unread", 5, "w-1")
    assert (first["after_id"], first["before_id"]) == ("1-0", "9-0")
    assert second["entry_ids"] == ["3-0", "3-1"]
    table = command(ground).stdout
    assert "trimmed_unread" in table
    assert "7 entries" in table

    closed = command(ground, "--close", str(first["id"]), "--note", "resynced")
    assert (closed.returncode, closed.stderr) == (0, "")
    assert [gap["id"] for gap in json.loads(command(ground, "--json").stdout)] == [second["id"]]
    everything = json.loads(command(ground, "--json", "--all").stdout)
    assert [gap["note"] for gap in everything] == ["resynced", None]
    again = command(ground, "--close", str(first["id"]), "--note", "again")
    assert again.returncode == 1
    assert "no such open gap" in again.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--close", "1"),
        ("--note", "x"),
        ("--close", "0", "--note", "x"),
        ("--close", "one", "--note", "x"),
        ("--close", "1", "--note", " "),
        ("--close", "1", "--note", "two\nlines"),
        ("--close", "1", "--note", "x" * 1_001),
        ("--close", "1", "--note", "x", "--json"),
        ("--nonsense",),
    ],
    ids=lambda arguments: " ".join(arguments)[:24],
)
async def test_arguments_that_make_no_sense_change_nothing(
    ground: Ground, postgres: Postgres, arguments: tuple[str, ...]
) -> None:
    journal = PostgresJournal(postgres, app_id=GROUP, worker=lambda: "w-1")
    await journal.record(counted(5, 5))
    assert command(ground, *arguments).returncode == 2
    (gap,) = read_gaps(ground.database_url, app_id=GROUP)
    assert gap.closed_at is None


async def test_only_gaps_of_this_app_are_shown_and_closed(
    postgres: Postgres, database_url: str
) -> None:
    await PostgresJournal(postgres, app_id="other", worker=lambda: "w").record(counted(5, 5))
    (gap,) = read_gaps(database_url, app_id="other")
    assert read_gaps(database_url, app_id="app") == []
    assert not close_gap(database_url, app_id="app", gap_id=gap.id, note="x")
    assert close_gap(database_url, app_id="other", gap_id=gap.id, note="x")
