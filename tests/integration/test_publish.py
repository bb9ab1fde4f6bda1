"""`publish`, run as a developer runs it, on real servers."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import psycopg2
import pytest
import redis

from streams.events import Bad, CapsuleEvent, EntryId, Skip, read_event
from tests.command_line import command_line, run_command
from tests.worker_process import WorkerProcess

STREAM = "wrenn:events"


@pytest.fixture
def environ(redis_url: str, database_url: str, tmp_path: Path) -> dict[str, str]:
    return make_environ(redis_url, database_url, tmp_path)


def make_environ(redis_url: str, database_url: str, data_dir: Path) -> dict[str, str]:
    return {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "CAPSULES_DATA_DIR": str(data_dir),
    }


def publish(environ: dict[str, str], cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_command(cwd, environ, "publish", *options)


def entries(redis_url: str) -> list[tuple[EntryId, dict[bytes, bytes]]]:
    with closing(redis.Redis.from_url(redis_url)) as client:
        found: Any = client.xrange(STREAM)
    return [(EntryId.parse(entry_id), fields) for entry_id, fields in found]


def sandboxes(database_url: str) -> dict[UUID, tuple[str, UUID]]:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("select id, status, team_id from sandboxes")
        return {UUID(row[0]): (row[1], UUID(row[2])) for row in cursor.fetchall()}


def test_publishes_as_many_events_as_asked_for_about_rows_that_exist(
    environ: dict[str, str], redis_url: str, database_url: str, tmp_path: Path
) -> None:
    done = publish(environ, tmp_path, "--count=500", "--seed=3", "--noise=0.2", "--bad=0.05")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert line.startswith("published 500 events in ")

    published = entries(redis_url)
    assert len(published) == 500
    assert {tuple(fields) for _, fields in published} == {(b"payload",)}
    answers = [read_event(entry_id, fields[b"payload"]) for entry_id, fields in published]
    kinds = Counter(type(answer) for answer in answers)
    assert kinds[Bad] / 500 == pytest.approx(0.05, abs=0.03)
    assert kinds[Skip] / 500 == pytest.approx(0.2, abs=0.06)
    rows = sandboxes(database_url)
    events = [answer for answer in answers if isinstance(answer, CapsuleEvent)]
    assert {event.capsule_id: event.team_id for event in events}.items() <= {
        capsule_id: team_id for capsule_id, (_, team_id) in rows.items()
    }.items()


def test_without_a_reconciler_most_rows_stay_where_the_control_plane_has_left_them(
    environ: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    assert publish(environ, tmp_path, "--count=300", "--seed=3").returncode == 0
    statuses = Counter(status for status, _ in sandboxes(database_url).values())
    assert statuses["starting"] > statuses["running"] > 0


def test_the_same_seed_twice_is_no_mistake(
    environ: dict[str, str], redis_url: str, database_url: str, tmp_path: Path
) -> None:
    assert publish(environ, tmp_path, "--count=200", "--seed=3").returncode == 0
    before = set(sandboxes(database_url))
    assert publish(environ, tmp_path, "--count=200", "--seed=3").returncode == 0
    assert set(sandboxes(database_url)) == before
    assert len(entries(redis_url)) == 400


def test_a_rate_is_kept(environ: dict[str, str], redis_url: str, tmp_path: Path) -> None:
    done = publish(environ, tmp_path, "--count=21", "--rate=20")
    assert done.returncode == 0
    took = re.search(r"in ([0-9.]+) s", done.stdout)
    assert took is not None
    # Not between the first entry and the last: the first may be late, and the others catch up.
    assert float(took[1]) >= 20 / 20
    assert len({entry_id.ms for entry_id, _ in entries(redis_url)}) > 15


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly_when_told_to(
    environ: dict[str, str], redis_url: str, tmp_path: Path, sig: signal.Signals
) -> None:
    with subprocess.Popen(
        command_line("publish", "--count=0", "--rate=100"),
        env=WorkerProcess.environment(**environ),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = monotonic() + 30
        while len(entries(redis_url)) < 10:
            assert process.poll() is None
            assert monotonic() < deadline
            sleep(0.05)
        process.send_signal(sig)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert output.startswith(f"published {len(entries(redis_url))} events in ")


def test_leaves_the_rows_of_a_real_control_plane_alone(
    redis_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    with closing(psycopg2.connect(empty_database_url)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("create table sandboxes (id uuid, status text, team_id uuid)")
        environ = make_environ(redis_url, empty_database_url, tmp_path)
        done = publish(environ, tmp_path)
    assert done.returncode == 1
    assert "migrate --dev" in done.stderr
    assert sandboxes(empty_database_url) == {}
    assert entries(redis_url) == []
