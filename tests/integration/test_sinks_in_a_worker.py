"""Sinks in a real worker: found where they are, told what they want, and in nobody's way."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from config.embedded import EphemeralServers
from streams.ids import format_capsule_id, format_team_id
from streams.sinks.deliveries import Delivery, Status
from tests.integration.conftest import execute
from tests.reconciliation import PREFIX, SOURCE, Ground
from tests.worker_process import ROOT, WorkerProcess, eventually

TEAM, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


@pytest.fixture
def ground(servers: EphemeralServers, redis_url: str, database_url: str) -> Ground:
    return Ground(redis_url, database_url)


def installed(directory: Path) -> Path:
    """Lay out a package as pip does, that offers the example as a sink of the type `archive`."""
    about = directory / "my_sinks-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sinks\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[capsules.sinks]\narchive = my_sinks:SqliteSink\n")
    shutil.copy(ROOT / "examples" / "sqlite_sink.py", directory / "my_sinks.py")
    return directory


def publish(ground: Ground, verb: str, team: uuid.UUID) -> str:
    event = {
        "event": f"capsule.{verb}",
        "outcome": "success",
        "actor": {"type": "system"},
        "team_id": format_team_id(team),
        "resource": {"id": format_capsule_id(uuid.uuid4()), "type": "sandbox"},
    }
    with ground.redis() as client:
        entry_id: bytes = client.xadd(SOURCE, {"payload": json.dumps(event)})
    return entry_id.decode()


def delivered(ground: Ground, sink: str) -> list[str]:
    """The ids of what a sink has taken, as the worker has recorded it."""
    with ground.redis() as client:
        rows = client.hvals(f"{PREFIX}deliveries:{sink}:rows")
    found = [Delivery.from_row(row) for row in rows]
    return [d.delivery_id for d in found if d is not None and d.status is Status.DELIVERED]


def kept(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as file:
        return [delivery_id for (delivery_id,) in file.execute("select id from events")]


async def test_a_worker_hands_events_to_plugins_and_waits_for_no_sink_that_is_down(
    ground: Ground, tmp_path: Path, unused_tcp_port: int
) -> None:
    path = tmp_path / "events.db"
    table = "delivery_id text primary key, capsule_id uuid, team_id uuid, type text,"
    execute(
        ground.database_url, f"create table kept ({table} occurred_at timestamptz, metadata jsonb)"
    )
    dead = f"redis://127.0.0.1:{unused_tcp_port}/0"
    sinks = [
        {"name": "down", "type": "redis-stream", "options": {"url": dead, "stream": "s"}},
        {
            "name": "file",
            "type": "archive",
            "events": ["paused"],
            "teams": [format_team_id(TEAM)],
            "options": {"path_env": "ARCHIVE_PATH"},
        },
        {"name": "rows", "type": "postgres", "options": {"url_env": "ROWS_URL", "table": "kept"}},
    ]
    packages = installed(tmp_path / "packages")
    worker = WorkerProcess(
        tmp_path / "worker",
        **ground.settings(
            CAPSULES_SINKS=json.dumps(sinks),
            ARCHIVE_PATH=str(path),
            ROWS_URL=ground.database_url,
            PYTHONPATH=f"{ROOT}{os.pathsep}{packages}",
        ),
    )
    try:
        await worker.wait_for("partitions_taken")
        unwanted = [publish(ground, "create", TEAM), publish(ground, "pause", OTHER)]
        wanted = publish(ground, "pause", TEAM)

        def rows() -> list[str]:
            with ground.cursor() as cursor:
                cursor.execute("select delivery_id from kept")
                return sorted(delivery_id for (delivery_id,) in cursor.fetchall())

        await eventually(lambda: rows() == sorted([*unwanted, wanted]), what="a row for each")
        # The file may be there before its table is.
        await eventually(lambda: delivered(ground, "file") == [wanted], what="the wanted one")
        assert kept(path) == [wanted]
        await worker.wait_for("delivery_retry")
        failed = [r for r in worker.records() if r.get("action") == "delivery_retry"]
        assert {record["stage"] for record in failed} == {"hook.down"}
        assert kept(path) == [wanted]
        assert await worker.stop() == 0
    finally:
        worker.kill()
