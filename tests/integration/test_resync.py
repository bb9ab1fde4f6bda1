"""`resync` on real servers: what it changes is the grid, and nothing newer is overwritten."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import psycopg2.extras
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.errors import DatabaseUnavailableError
from streams.ids import format_capsule_id, format_host_id
from streams.resync.host_report import HostReport, ReportedCapsule, ReportError
from streams.resync.resync import Result, compare, resync, write
from tests.command_line import run_command
from tests.integration.conftest import execute
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.resync_grid import GRID, ROW_STATUSES, expected
from tests.worker_process import WorkerProcess, eventually

AS_OF = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LONG_AGO = AS_OF - timedelta(days=3)
HERE, ELSEWHERE = UUID(int=100), UUID(int=200)
#: When a row changed, and whether its transition has settled by then.
AGES = {
    None: True,
    LONG_AGO: True,
    AS_OF - timedelta(minutes=5): True,
    AS_OF - timedelta(minutes=5) + timedelta(microseconds=1): False,
    AS_OF: False,
    AS_OF + timedelta(microseconds=1): False,
}


@dataclass(frozen=True)
class Row:
    status: str | None = "running"
    last_updated: datetime | None = LONG_AGO
    host_id: UUID | None = HERE
    host_ip: str | None = None
    created_at: datetime | None = None


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database_url)) as connection:
        yield connection


def load(connection: Any, rows: Mapping[UUID, Row]) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("truncate sandboxes")
        psycopg2.extras.execute_values(
            cursor,
            "insert into sandboxes (id, status, last_updated, host_id, host_ip, created_at)"
            " values %s",
            [
                (
                    str(capsule_id),
                    row.status,
                    row.last_updated,
                    row.host_id and str(row.host_id),
                    row.host_ip,
                    row.created_at,
                )
                for capsule_id, row in rows.items()
            ],
        )


def table(connection: Any) -> dict[UUID, tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "select id, status, host_ip, last_updated, started_at, last_active_at from sandboxes"
        )
        return {UUID(found[0]): tuple(found[1:]) for found in cursor.fetchall()}


def statuses(connection: Any) -> dict[UUID, str | None]:
    return {capsule_id: found[0] for capsule_id, found in table(connection).items()}


def report(capsules: Mapping[UUID, str], hosts: frozenset[UUID] | None = None) -> HostReport:
    return HostReport(AS_OF, hosts, {key: ReportedCapsule(word) for key, word in capsules.items()})


def kinds(result: Result) -> dict[UUID, tuple[str, str]]:
    return {found.capsule_id: (found.kind.value, found.to) for found in result.differences}


def judged(row: Row | None, capsule: ReportedCapsule | None, hosts: Any) -> Any:
    """What the design says of one capsule: its difference, None where there is none."""
    reported = None if capsule is None else capsule.status
    if row is None:
        return ("unknown", "") if capsule else None
    in_scope = hosts is None or row.host_id in hosts
    if capsule is None and not in_scope:
        return None
    found = expected(row.status, reported, settled=AGES[row.last_updated])
    if row.host_id is not None and not in_scope:
        if reported == "missing" or (
            found is None and row.status in {"stopped", "missing", "error"}
        ):
            return None
        found = ("conflict", "")
    if found is not None and row.last_updated is not None and row.last_updated > AS_OF:
        return ("newer", "")
    return found


ROWS = st.builds(
    Row,
    status=st.sampled_from([*ROW_STATUSES, "a new word", None]),
    last_updated=st.sampled_from(list(AGES)),
    host_id=st.sampled_from([HERE, ELSEWHERE, None]),
    host_ip=st.sampled_from([None, "", "10.9.9.9"]),
)
CAPSULES = st.builds(
    ReportedCapsule,
    status=st.sampled_from([word for word in GRID if word is not None]),
    host_ip=st.sampled_from(["", "10.0.0.1"]),
)
IDS = st.integers(0, 30).map(lambda number: UUID(int=number << 100))


def check(
    connection: Any,
    rows: Mapping[UUID, Row],
    capsules: Mapping[UUID, ReportedCapsule],
    hosts: frozenset[UUID] | None,
) -> set[str]:
    """Fail unless comparing and writing do what the grid says, once; returns the kinds seen."""
    load(connection, rows)
    before = table(connection)
    asked = HostReport(AS_OF, hosts, capsules)
    wanted = {
        capsule_id: found
        for capsule_id in {*rows, *capsules}
        if (found := judged(rows.get(capsule_id), capsules.get(capsule_id), hosts))
    }
    assert kinds(resync(connection, asked, apply=False)) == wanted
    assert table(connection) == before

    result = resync(connection, asked, apply=True)
    assert kinds(result) == wanted
    after = table(connection)
    assert set(after) == set(before)
    for capsule_id, row in rows.items():
        kind, to = wanted.get(capsule_id, ("", ""))
        if kind != "change":
            assert after[capsule_id] == before[capsule_id]
            continue
        status, host_ip, last_updated, started_at, last_active_at = after[capsule_id]
        capsule = capsules.get(capsule_id, ReportedCapsule(""))
        starts = to == "running" and row.status in {"starting", "resuming"}
        assert status == to
        assert host_ip == (row.host_ip or capsule.host_ip or row.host_ip)
        assert last_updated > AS_OF
        assert (started_at, last_active_at) == ((last_updated,) * 2 if starts else (None, None))
    written = {found.capsule_id for found in result.differences if found.written}
    changes = {capsule_id for capsule_id, (kind, _) in wanted.items() if kind == "change"}
    assert written == changes

    left = {capsule_id: found for capsule_id, found in wanted.items() if found[0] != "change"}
    assert kinds(resync(connection, asked, apply=True)) == left
    assert table(connection) == after
    return {kind for kind, _ in wanted.values()}


@pytest.mark.parametrize("hosts", [None, frozenset({HERE})])
def test_each_pair_of_row_and_report_ends_as_the_grid_says(
    connection: Any, hosts: frozenset[UUID] | None
) -> None:
    rows: dict[UUID, Row] = {}
    capsules: dict[UUID, ReportedCapsule] = {}
    every = product(
        [*ROW_STATUSES, "a new word", None],
        GRID,
        AGES,
        [HERE, ELSEWHERE, None],
        [(None, ""), (None, "10.0.0.1"), ("10.9.9.9", "10.0.0.1")],
    )
    for number, (status, reported, changed, host_id, (row_ip, ip)) in enumerate(every):
        capsule_id = UUID(int=number << 80)
        rows[capsule_id] = Row(status, changed, host_id, row_ip)
        if reported is not None:
            capsules[capsule_id] = ReportedCapsule(reported, ip)
    capsules[UUID(int=1)] = ReportedCapsule("running")
    seen = check(connection, rows, capsules, hosts)
    assert seen == {"change", "conflict", "unknown", "newer", "under_way"}


def test_random_tables_and_reports_end_as_the_grid_says(connection: Any) -> None:
    @settings(
        max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(
        rows=st.dictionaries(IDS, ROWS, max_size=25),
        capsules=st.dictionaries(IDS, CAPSULES, max_size=25),
        hosts=st.sampled_from([None, frozenset({HERE})]),
    )
    def each(
        rows: dict[UUID, Row],
        capsules: dict[UUID, ReportedCapsule],
        hosts: frozenset[UUID] | None,
    ) -> None:
        check(connection, rows, capsules, hosts)

    each()


def test_many_rows_are_read_and_written_in_chunks(connection: Any) -> None:
    ids = [UUID(int=number << 90) for number in range(1, 12_002)]
    load(connection, {capsule_id: Row("stopping") for capsule_id in ids})
    asked = report(dict.fromkeys(ids[::2], "stopped") | {UUID(int=5): "running"})
    result = resync(connection, asked, apply=True)
    assert result.counts() == {
        "compared": 12_002,
        "agree": 0,
        "change": 12_001,
        "conflict": 0,
        "unknown": 1,
        "newer": 0,
        "under_way": 0,
        "written": 12_001,
    }
    found = [difference.capsule_id.int for difference in result.differences]
    assert found == sorted(found)
    assert set(statuses(connection).values()) == {"stopped"}


def test_a_row_made_since_the_hosts_were_asked_is_not_missing(connection: Any) -> None:
    born = Row("running", last_updated=None, created_at=AS_OF + timedelta(seconds=1))
    load(connection, {UUID(int=1): born})
    result = resync(connection, report({}), apply=True)
    assert kinds(result) == {UUID(int=1): ("newer", "")}
    assert statuses(connection) == {UUID(int=1): "running"}


@pytest.mark.parametrize(
    "change",
    [
        "update sandboxes set status = 'pausing', last_updated = now()",
        # There and back again, or only touched: newer than the report all the same.
        "update sandboxes set last_updated = now()",
        # By somebody who leaves last_updated alone.
        "update sandboxes set status = 'stopping'",
        "delete from sandboxes",
    ],
)
def test_a_row_that_changes_between_comparing_and_writing_is_not_overwritten(
    connection: Any, database_url: str, change: str
) -> None:
    load(connection, {UUID(int=1): Row("running"), UUID(int=2): Row("running")})
    result = compare(connection, report({}))
    assert set(kinds(result).values()) == {("change", "missing")}
    execute(database_url, f"{change} where id = '{UUID(int=1)}'")
    changed = table(connection).get(UUID(int=1))

    written = write(connection, result)
    assert [found.written for found in written.differences] == [False, True]
    assert not written.is_done
    assert table(connection).get(UUID(int=1)) == changed
    assert statuses(connection)[UUID(int=2)] == "missing"


def test_a_row_that_somebody_is_about_to_change_is_neither_waited_for_nor_overwritten(
    connection: Any, database_url: str
) -> None:
    load(connection, {UUID(int=1): Row("running"), UUID(int=2): Row("running")})
    with closing(psycopg2.connect(database_url)) as other:
        with other.cursor() as cursor:
            cursor.execute(
                "update sandboxes set status = 'pausing' where id = %s", (str(UUID(int=1)),)
            )
        result = resync(connection, report({}), apply=True)
        other.commit()
    assert [found.written for found in result.differences] == [False, True]
    assert statuses(connection) == {UUID(int=1): "pausing", UUID(int=2): "missing"}


def test_a_locked_table_ends_it_in_bounded_time(connection: Any, database_url: str) -> None:
    load(connection, {UUID(int=1): Row("running")})
    with closing(psycopg2.connect(database_url)) as other:
        with other.cursor() as cursor:
            cursor.execute("lock table sandboxes in access exclusive mode")
        with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
            resync(connection, report({}), apply=True)
    # The connection is usable as before.
    assert resync(connection, report({}), apply=True).counts()["written"] == 1


def test_a_report_from_the_future_is_refused(connection: Any) -> None:
    load(connection, {UUID(int=1): Row("running")})
    ahead = HostReport(datetime.now(UTC) + timedelta(seconds=60), None, {})
    with pytest.raises(ReportError, match="as_of: later than Postgres' clock"):
        resync(connection, ahead, apply=True)
    assert statuses(connection) == {UUID(int=1): "running"}


# -- The command


def command(
    ground: Ground, directory: Path, document: object, *options: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `resync`, with the document on stdin."""
    return run_command(
        directory,
        ground.settings(**more),
        *("resync", *(options or ["-"])),
        columns=80,
        stdin=document if isinstance(document, str) else json.dumps(document),
    )


def document(
    capsules: Mapping[UUID, str], *, as_of: datetime = AS_OF, **more: object
) -> dict[str, object]:
    return {
        "as_of": as_of.isoformat(),
        "capsules": [
            {"id": format_capsule_id(capsule_id), "status": word}
            for capsule_id, word in capsules.items()
        ],
        **more,
    }


def test_the_command_tells_then_writes_then_finds_nothing(
    ground: Ground, connection: Any, tmp_path: Path
) -> None:
    stray, started = UUID(int=1), UUID(int=2)
    load(connection, {stray: Row("running"), started: Row("starting")})
    file = tmp_path / "report.json"
    file.write_text(json.dumps(document({started: "running"}, hosts=[format_host_id(HERE)])))

    told = command(ground, tmp_path, "", str(file), "--json")
    assert told.returncode == 3, told.stderr
    found = json.loads(told.stdout)
    assert found["differences"] == [
        {
            "capsule_id": format_capsule_id(stray),
            "kind": "change",
            "row_status": "running",
            "reported": None,
            "to": "missing",
            "changed_at": LONG_AGO.isoformat(),
            "written": False,
        },
        {
            "capsule_id": format_capsule_id(started),
            "kind": "change",
            "row_status": "starting",
            "reported": "running",
            "to": "running",
            "changed_at": LONG_AGO.isoformat(),
            "written": False,
        },
    ]
    assert statuses(connection) == {stray: "running", started: "starting"}

    written = command(ground, tmp_path, "", str(file), "--json", "--apply")
    assert written.returncode == 0, written.stderr
    found = json.loads(written.stdout)
    assert [found[key] for key in ("version", "as_of", "applied", "waiting_since")] == [
        1,
        AS_OF.isoformat(),
        True,
        None,
    ]
    assert (found["counts"]["change"], found["counts"]["written"]) == (2, 2)
    assert statuses(connection) == {stray: "missing", started: "running"}

    again = command(ground, tmp_path, "", str(file))
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == "compared: 1, agree: 1"


def test_a_conflict_is_told_and_not_written(
    ground: Ground, connection: Any, tmp_path: Path
) -> None:
    load(connection, {UUID(int=1): Row("stopped"), UUID(int=2): Row("[red]\x1b[31m\nx")})
    done = command(ground, tmp_path, document({UUID(int=1): "running"}), "-", "--apply")
    assert done.returncode == 3, done.stderr
    assert "conflict: 2" in done.stdout
    # Neither markup nor control characters of a status that nobody knows.
    assert "[red]" in done.stdout
    assert "\x1b" not in done.stdout
    assert statuses(connection)[UUID(int=1)] == "stopped"


@pytest.mark.parametrize("place", ["source", "capsules"])
async def test_nothing_is_written_while_an_event_from_before_the_report_is_on_its_way(
    ground: Ground, connection: Any, tmp_path: Path, place: str
) -> None:
    load(connection, {UUID(int=1): Row("running")})
    asked = document({})
    asked["hosts"] = [format_host_id(HERE)]
    earlier = int((AS_OF - timedelta(seconds=7)).timestamp() * 1000)
    later = int((AS_OF + timedelta(seconds=7)).timestamp() * 1000)
    with ground.redis() as client:
        if place == "source":
            client.xadd(SOURCE, {"payload": "{}"}, id=f"{earlier}-0")
            client.xgroup_create(SOURCE, GROUP, "0")
            client.xreadgroup(GROUP, "owner", {SOURCE: ">"})
        else:
            key = f"{PREFIX}capsules:3"
            client.xadd(key, {"k": b"", "h:source-id": f"{earlier}-0"})
        client.xadd(SOURCE, {"payload": "{}"}, id=f"{later}-0")
    done = command(ground, tmp_path, asked, "-", "--apply", "--json")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["applied"] is False
    assert found["waiting_since"] == (AS_OF - timedelta(seconds=7)).isoformat()
    assert found["counts"]["written"] == 0
    assert statuses(connection) == {UUID(int=1): "running"}
    said = command(ground, tmp_path, asked, "-", "--apply").stdout
    assert "nothing is written" in said

    # What came after the report is no obstacle.
    with ground.redis() as client:
        client.delete(f"{PREFIX}capsules:3")
        client.xtrim(SOURCE, minid=f"{later}-0", approximate=False)
        if place == "source":
            client.xack(SOURCE, GROUP, f"{earlier}-0")
    done = command(ground, tmp_path, asked, "-", "--apply")
    assert done.returncode == 0, done.stdout
    assert statuses(connection) == {UUID(int=1): "missing"}


async def test_it_repairs_what_lost_events_left_behind_while_workers_run(
    ground: Ground, connection: Any, tmp_path: Path
) -> None:
    load(connection, {UUID(int=1): Row("starting"), UUID(int=2): Row("stopping")})
    worker = WorkerProcess(tmp_path / "w", **ground.settings())
    await worker.wait_for("partitions_taken")
    with ground.redis() as client:
        client.xadd(SOURCE, {"payload": "{}"})
    await eventually(ground.drained, what="nothing waits")
    asked = document({UUID(int=1): "running"}, as_of=datetime.now(UTC))
    assert command(ground, tmp_path, asked, "-", "--apply").returncode == 0
    assert statuses(connection) == {UUID(int=1): "running", UUID(int=2): "stopped"}
    assert await worker.stop() == 0


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("{", ["report: not JSON"]),
        (
            json.dumps({"as_of": "x\x1b[31m", "capsules": [{"id": "cl-\x1b", "status": "\n"}]}),
            ["as_of: ", "capsules[0].id: ", "capsules[0].status: "],
        ),
        (
            json.dumps(
                document({}, as_of=datetime(9000, 1, 1, tzinfo=UTC), hosts=["host-" + "0" * 25])
            ),
            ["as_of: later"],
        ),
    ],
)
def test_a_bad_report_ends_with_2_and_a_line_for_each_mistake_and_changes_nothing(
    ground: Ground, connection: Any, tmp_path: Path, text: str, lines: list[str]
) -> None:
    load(connection, {UUID(int=1): Row("running")})
    before = table(connection)
    done = command(ground, tmp_path, text, "-", "--apply", "--json")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == len(lines)
    for line, start in zip(said, lines, strict=True):
        assert line.startswith(start)
        assert line.isprintable()
    assert table(connection) == before


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}, "connection"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, ""),
    ],
)
def test_a_server_that_is_away_ends_it_with_1(
    ground: Ground, tmp_path: Path, more: dict[str, str], names: str
) -> None:
    done = command(ground, tmp_path, document({UUID(int=1): "running"}), "-", "--json", **more)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert names in done.stderr
    assert "Traceback" not in done.stderr
    # A bad report is refused all the same.
    assert command(ground, tmp_path, "{", "-", **more).returncode == 2


def test_a_file_that_is_not_there_ends_it_with_2(ground: Ground, tmp_path: Path) -> None:
    assert command(ground, tmp_path, "", str(tmp_path / "none.json")).returncode == 2
