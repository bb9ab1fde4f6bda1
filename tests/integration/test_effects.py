"""The statement behind the verb agents, on a real Postgres: any batches, any company."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from importlib import resources
from uuid import UUID

import pytest
from faust.types import TP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.effects import Effects
from agents.report import Report
from streams.errors import DatabaseError, DatabaseRejectedError
from streams.events import CapsuleEvent, EntryId, Verb, read_event
from streams.postgres import Postgres
from streams.topology import SharedStatement, Wiring
from streams.transport import Entry
from tests.event_log import EventLog, event_logs
from tests.faults.fleet import expected_changes, record_changes, recorded_changes
from tests.oracle import Row, replay
from tests.reconciliation import Ground, assert_same

STAGES = ("create", "resume", "pause", "destroy", "failure")
TEAM = UUID(int=5)


def effects_in(postgres: Postgres, *, batch_max: int = 500) -> tuple[Effects, Wiring]:
    wiring = Wiring()
    sql = resources.files("agents.sql").joinpath("effects.sql").read_text(encoding="utf-8")
    statement = SharedStatement(postgres, wiring, sql)
    for stage in STAGES:
        statement.connect(stage)
    return Effects(statement, batch_max=batch_max), wiring


@pytest.fixture
async def crowd(database_url: str) -> AsyncIterator[Postgres]:
    """As `postgres`, with a connection for each who comes."""
    postgres = Postgres(
        database_url,
        pool_size=6,
        connect_timeout_s=5,
        statement_timeout_ms=10_000,
        lock_timeout_ms=5_000,
    )
    await postgres.open()
    yield postgres
    await postgres.close()


def reports_of(log: EventLog) -> list[Report]:
    found = []
    for entry_id, payload in log.entries:
        event = read_event(EntryId.parse(entry_id), payload)
        if isinstance(event, CapsuleEvent):
            entry = Entry(TP("capsules", 0), entry_id.encode(), {}, 1)
            stage = event.verb.value if event.succeeded else "failure"
            found.append(Report(event, entry, stage))
    return found


def report(capsule: int, number: int, verb: Verb = Verb.PAUSE) -> Report:
    event = CapsuleEvent(
        EntryId(number, 0), verb, True, UUID(int=capsule).bytes, team="", timestamp="", metadata={},
        error="",
    )  # fmt: skip
    return Report(event, Entry(TP("capsules", 0), f"{number}-0".encode(), {}, 1), verb.value)


def running(*capsules: int) -> dict[UUID, Row]:
    return {UUID(int=capsule): Row("running", TEAM) for capsule in capsules}


@settings(deadline=None, database=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(log=event_logs(max_events=40, max_capsules=3), sizes=st.lists(st.integers(1, 15)))
async def test_any_batches_of_any_log_end_as_the_oracle_says_and_go_through_the_same_statuses(
    ground: Ground, postgres: Postgres, log: EventLog, sizes: list[int]
) -> None:
    effects, wiring = effects_in(postgres)
    ground.load(log.rows)
    record_changes(ground)
    expected = replay(log.rows, log.entries)
    reports = reports_of(log)
    fresh = 0
    while reports:
        size = sizes.pop() if sizes else 1
        batch, reports = reports[:size], reports[size:]
        fresh += (await effects.alone(batch)).fresh
        # Given once more, as after a crash, it has no effect.
        again = await effects.alone(batch)
        assert (again.fresh, again.changed) == (0, 0)
    expected.deliveries.clear()
    expected.dead_lettered.clear()
    assert_same(ground.outcome(), expected)
    assert recorded_changes(ground) == expected_changes(log)
    assert fresh == len(expected.done)
    flows = wiring.meter.flows
    assert sum(flows[stage, "sandboxes"].entries for stage in STAGES) == sum(
        map(len, expected_changes(log).values())
    )
    assert flows["failure", "audit_logs"].entries == len(expected.audit)


def transactions(ground: Ground) -> int:
    """How many transactions have moved the marks that are there."""
    with ground.cursor() as cursor:
        cursor.execute("select count(distinct xmin::text) from capsule_reconciler.watermarks")
        (count,) = cursor.fetchone()
    return int(count)


def statuses(ground: Ground) -> list[str]:
    with ground.cursor() as cursor:
        cursor.execute("select status from sandboxes order by id")
        return [status for (status,) in cursor.fetchall()]


async def gathered(
    effects: Effects, ground: Ground, batches: Sequence[Sequence[Report]]
) -> list[asyncio.Task[object]]:
    """Hand the first batch in, and the others while a lock holds it up."""
    tasks: list[asyncio.Task[object]] = []
    with ground.cursor() as cursor:
        cursor.execute("lock table capsule_reconciler.watermarks in exclusive mode")
        for batch in batches:
            tasks.append(asyncio.create_task(effects.together(batch)))
            for _ in range(10):
                await asyncio.sleep(0)
    return tasks


async def test_what_agents_hand_in_at_one_moment_goes_as_one(
    ground: Ground, crowd: Postgres
) -> None:
    ground.load(running(*range(1, 6)))
    effects, _ = effects_in(crowd)
    await asyncio.gather(*(effects.together([report(n, n)]) for n in range(1, 6)))
    assert statuses(ground) == ["paused"] * 5
    assert transactions(ground) == 1


async def test_what_is_handed_in_while_two_statements_are_on_their_way_goes_as_one(
    ground: Ground, crowd: Postgres
) -> None:
    ground.load(running(*range(1, 7)))
    effects, _ = effects_in(crowd)
    tasks = await gathered(effects, ground, [[report(n, n)] for n in range(1, 7)])
    await asyncio.gather(*tasks)
    assert statuses(ground) == ["paused"] * 6
    assert transactions(ground) == 3


async def test_a_transaction_takes_no_more_reports_than_it_may(
    ground: Ground, crowd: Postgres
) -> None:
    ground.load(running(*range(1, 6)))
    effects, _ = effects_in(crowd, batch_max=2)
    batches = [[report(1, 1)], [report(2, 2), report(3, 3)], [report(4, 4)], [report(5, 5)]]
    await asyncio.gather(*await gathered(effects, ground, batches))
    assert statuses(ground) == ["paused"] * 5
    assert transactions(ground) == 3


async def test_who_is_cancelled_while_waiting_takes_nothing_from_the_others(
    ground: Ground, crowd: Postgres
) -> None:
    ground.load(running(1, 2, 3))
    effects, _ = effects_in(crowd)
    first, second, third = await gathered(effects, ground, [[report(n, n)] for n in (1, 2, 3)])
    second.cancel()
    await asyncio.gather(first, third)
    with suppress(asyncio.CancelledError):
        await second
    assert second.cancelled()


async def test_a_batch_of_which_one_report_is_refused_has_no_effect_at_all(
    ground: Ground, postgres: Postgres
) -> None:
    ground.load(running(1, 2))
    ground.refuse(["3-0"])
    effects, wiring = effects_in(postgres)
    batch = [report(1, 1), report(2, 2), report(1, 3, Verb.DESTROY)]
    with pytest.raises(DatabaseRejectedError):
        await effects.alone(batch)
    assert (statuses(ground), transactions(ground)) == (["running"] * 2, 0)
    assert (await effects.alone(batch[:2])).changed == 2
    assert wiring.meter.flows["pause", "sandboxes"].entries == 2


async def test_what_is_refused_is_told_to_all_who_went_along_and_then_to_nobody_else(
    ground: Ground, crowd: Postgres
) -> None:
    ground.load(running(1, 2, 3, 4))
    ground.refuse(["4-0"])
    effects, _ = effects_in(crowd)
    tasks = await gathered(effects, ground, [[report(n, n)] for n in (1, 2, 3, 4)])
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, DatabaseError) for answer in answers] == [False, False, True, True]
    assert statuses(ground) == ["paused", "paused", "running", "running"]
    assert (await effects.together([report(3, 3)])).changed == 1


async def test_a_statement_that_found_nothing_left_to_run_holds_up_no_later_one(
    ground: Ground, crowd: Postgres
) -> None:
    ground.load(running(*range(1, 40)))
    effects, _ = effects_in(crowd)

    async def hand_in(number: int) -> None:
        for _ in range(number % 7):
            await asyncio.sleep(0)
        await effects.together([report(number, number)])

    async with asyncio.timeout(20):
        for first in range(1, 40, 13):
            await asyncio.gather(*map(hand_in, range(first, first + 13)))
    assert statuses(ground) == ["paused"] * 39
