"""Housekeeping of dead letters and gaps: what was dealt with goes, what is lost is told first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg2
from structlog.testing import capture_logs

from streams.housekeeping.old_gaps import OldGaps
from streams.housekeeping.old_letters import OldLetters
from streams.journal import PostgresJournal
from streams.postgres import Postgres
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import WorkerProcess, eventually


class Runs(Protocol):
    def run(self) -> AsyncGenerator[int, None]: ...


def add_letter(
    ground: Ground, origin: str, state: str = "dead", *, days: float | None = None, sink: str = ""
) -> None:
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into capsule_reconciler.dead_letters (origin_id, source_id, stage, sink,"
            " reason, error, attempts, first_at, last_at, state, resolved_at)"
            " values (%s, %s, 'route', %s, 'bad_entry', 'bad', 1, now(), now(), %s,"
            " now() - %s::float * interval '1 day')",
            (origin, origin, sink, state, days),
        )


def letters(ground: Ground) -> list[str]:
    with ground.cursor() as cursor:
        cursor.execute("select origin_id from capsule_reconciler.dead_letters order by id")
        return [origin for (origin,) in cursor.fetchall()]


def lost(ground: Ground) -> set[tuple[str, str, str]]:
    with ground.cursor() as cursor:
        cursor.execute("select kind, stream, entry_id from capsule_reconciler.gap_entries")
        return set(cursor.fetchall())


def chore(postgres: Postgres, *, keep_days: int = 30, max_letters: int = 1_000) -> OldLetters:
    return OldLetters(
        postgres,
        keep_days=keep_days,
        max_letters=max_letters,
        journal=PostgresJournal(postgres, app_id=GROUP, worker=lambda: "w"),
        source=SOURCE,
        prefix=PREFIX,
    )


async def do(chore: Runs) -> tuple[int, dict[str, Mapping[str, Any]]]:
    """How many things it removed, and what it said by action."""
    with capture_logs() as said:
        total = sum([count async for count in chore.run()])
    return total, {line["action"]: line for line in said}


async def test_what_was_dealt_with_goes_after_a_while_and_what_was_not_stays(
    ground: Ground, postgres: Postgres
) -> None:
    add_letter(ground, "1-0", "replayed", days=31)
    add_letter(ground, "2-0", "discarded", days=31)
    add_letter(ground, "3-0", "replayed", days=29)
    add_letter(ground, "4-0", "replaying", days=None)
    add_letter(ground, "5-0", "dead", days=None)
    assert await do(chore(postgres)) == (2, {})
    assert letters(ground) == ["3-0", "4-0", "5-0"]
    assert lost(ground) == set()


async def test_above_the_bound_resolved_ones_go_first_and_dead_ones_are_told_as_lost(
    ground: Ground, postgres: Postgres
) -> None:
    add_letter(ground, "1-0")
    add_letter(ground, "2-0", sink="billing")
    add_letter(ground, "2-0", sink="audit")
    add_letter(ground, "3-0", "replayed", days=1)
    add_letter(ground, "4-0", "replaying")
    add_letter(ground, "5-0")
    total, said = await do(chore(postgres, max_letters=5))
    assert (total, set(said)) == (1, {"dead_letters_filling"})
    assert letters(ground) == ["1-0", "2-0", "2-0", "4-0", "5-0"]
    assert lost(ground) == set()

    total, said = await do(chore(postgres, max_letters=2))
    assert (total, set(said)) == (3, {"dead_letters_filling", "dead_letters_dropped"})
    assert letters(ground) == ["4-0", "5-0"]
    assert lost(ground) == {
        ("dead_letters_dropped", SOURCE, "1-0"),
        ("dead_letters_dropped", f"{PREFIX}hooks.billing", "2-0"),
        ("dead_letters_dropped", f"{PREFIX}hooks.audit", "2-0"),
    }
    assert said["dead_letters_dropped"]["log_level"] == "error"
    assert said["dead_letters_dropped"]["letters"] == 3
    assert said["dead_letters_filling"]["log_level"] == "warning"


async def test_a_letter_that_does_not_know_its_entry_is_no_obstacle(
    ground: Ground, postgres: Postgres
) -> None:
    add_letter(ground, "")
    add_letter(ground, "unknown")
    add_letter(ground, "3-0")
    assert (await do(chore(postgres, max_letters=0)))[0] == 3
    assert {entry for _, _, entry in lost(ground)} == {"0-0", "3-0"}


async def test_it_warns_from_four_fifths_of_the_bound_on(
    ground: Ground, postgres: Postgres
) -> None:
    for number in range(7):
        add_letter(ground, f"{number}-0")
    add_letter(ground, "99-0", "replayed", days=1)
    assert await do(chore(postgres, max_letters=10)) == (0, {})
    add_letter(ground, "8-0")
    _, said = await do(chore(postgres, max_letters=10))
    assert said["dead_letters_filling"]["letters"] == 8


async def test_many_letters_go_in_short_statements(ground: Ground, postgres: Postgres) -> None:
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into capsule_reconciler.dead_letters (origin_id, source_id, stage, reason,"
            " error, attempts, first_at, last_at)"
            " select g || '-0', g || '-0', 'route', 'bad_entry', 'bad', 1, now(), now()"
            " from generate_series(1, 2500) g"
        )
    counts = [count async for count in chore(postgres, max_letters=100).run()]
    assert [count for count in counts if count] == [1_000, 1_000, 400]
    assert letters(ground) == [f"{number}-0" for number in range(2401, 2501)]
    assert len(lost(ground)) == 2_400


async def test_a_letter_that_somebody_is_at_is_neither_waited_for_nor_removed(
    ground: Ground, postgres: Postgres
) -> None:
    add_letter(ground, "1-0")
    with closing(psycopg2.connect(ground.database_url)) as other, other.cursor() as cursor:
        cursor.execute("select from capsule_reconciler.dead_letters for update")
        total, said = await do(chore(postgres, max_letters=0))
        assert (total, "dead_letters_dropped" in said) == (0, False)
    assert letters(ground) == ["1-0"]


# -- Gaps


def add_gap(ground: Ground, account: str, total: int, *, days: float | None) -> None:
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into capsule_reconciler.gaps (app_id, stream, kind, entries, account, prior,"
            " total, worker, closed_at) values (%s, %s, 'trimmed_unread', 1, %s, %s, %s, 'w',"
            " now() - %s::float * interval '1 day')",
            (GROUP, SOURCE, account, total - 1, total, days),
        )
        cursor.execute(
            "insert into capsule_reconciler.gap_entries values (%s, %s, 'x', %s, %s)",
            (GROUP, SOURCE, f"{account}-{total}", account),
        )


def gaps(ground: Ground) -> set[tuple[str, int]]:
    with ground.cursor() as cursor:
        cursor.execute("select account, total from capsule_reconciler.gaps")
        return set(cursor.fetchall())


async def test_a_gap_goes_90_days_after_it_was_closed_with_its_entries(
    ground: Ground, postgres: Postgres
) -> None:
    add_gap(ground, "old", 1, days=91)
    add_gap(ground, "recent", 1, days=89)
    add_gap(ground, "open", 1, days=None)
    assert (await do(OldGaps(postgres)))[0] == 1
    assert gaps(ground) == {("recent", 1), ("open", 1)}
    assert {entry for _, _, entry in lost(ground)} == {"recent-1", "open-1"}


async def test_the_last_gap_of_an_account_that_is_counted_on_stays(
    ground: Ground, postgres: Postgres
) -> None:
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into capsule_reconciler.positions values (%s, %s, 'now', '1-0', 1, '1-0', 1)",
            (GROUP, SOURCE),
        )
    for account in ("now", "before"):
        for total in (1, 2, 3):
            add_gap(ground, account, total, days=91)
    assert (await do(OldGaps(postgres)))[0] == 5
    assert gaps(ground) == {("now", 3)}


async def test_a_worker_does_all_of_it(ground: Ground, tmp_path: Path) -> None:
    add_letter(ground, "1-0", "replayed", days=31)
    add_gap(ground, "old", 1, days=91)
    worker = WorkerProcess(tmp_path / "w", **ground.settings(CAPSULES_HOUSEKEEPING_INTERVAL_S="1"))
    await eventually(lambda: (letters(ground), gaps(ground)) == ([], set()), what="all is gone")
    await worker.wait_for("housekeeping_done")
    done = next(r for r in worker.records() if r.get("action") == "housekeeping_done")
    assert (done["watermarks"], done["dead_letters"], done["gaps"]) == (0, 1, 1)
    assert await worker.stop() == 0
