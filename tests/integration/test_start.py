"""How a worker starts: wrong settings end it with one line, absent servers are waited for."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import redis

from config.embedded import EphemeralServers
from tests.integration.conftest import execute
from tests.reconciliation import SOURCE, Ground
from tests.worker_process import WorkerProcess

#: A start that cannot succeed ends by itself; how soon depends on the machine.
REFUSED_WITHIN_S = 30.0


async def refusal(directory: Path, **settings: str) -> list[str]:
    """Start a worker that must refuse, and return the lines it says that with."""
    started = time.monotonic()
    worker = WorkerProcess(directory, **settings)
    assert await worker.ended() == 1
    assert time.monotonic() - started < REFUSED_WITHIN_S
    text = worker.log_path.read_text(encoding="utf-8")
    assert "Traceback" not in text
    return [line for line in text.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"REDIS_URL": "http://127.0.0.1:6379"}, "REDIS_URL"),
        ({"DATABASE_URL": "mysql://127.0.0.1/wrenn"}, "DATABASE_URL"),
        ({"CAPSULES_PARTITONS": "8"}, "CAPSULES_PARTITONS"),
        ({"CAPSULES_PARTITIONS": "many"}, "CAPSULES_PARTITIONS"),
        ({"CAPSULES_SINKS": '[{"name": "x", "type": "carrier-pigeon"}]'}, "carrier-pigeon"),
    ],
    ids=["redis url", "database url", "unknown key", "not a number", "unknown sink"],
)
async def test_a_wrong_setting_ends_the_start_with_one_line(
    ground: Ground, tmp_path: Path, wrong: dict[str, str], named: str
) -> None:
    lines = await refusal(tmp_path, **(ground.settings() | wrong))
    assert len(lines) == 1
    assert named in lines[0]


async def test_two_wrong_settings_are_two_lines(ground: Ground, tmp_path: Path) -> None:
    wrong = {"REDIS_URL": "nonsense", "CAPSULES_LEASE_S": "-1"}
    lines = await refusal(tmp_path, **(ground.settings() | wrong))
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("drop table audit_logs", "audit_logs"),
        ("alter table sandboxes drop column host_ip", "host_ip"),
        ("drop schema capsule_reconciler cascade", "migrate"),
    ],
    ids=["table", "column", "own schema"],
)
async def test_a_missing_table_or_column_ends_the_start_with_one_line(
    ground: Ground, tmp_path: Path, statement: str, named: str
) -> None:
    execute(ground.database_url, statement)
    lines = await refusal(tmp_path, **ground.settings())
    assert len(lines) == 1
    assert named in lines[0]


async def test_a_missing_right_ends_the_start_with_one_line(ground: Ground, tmp_path: Path) -> None:
    role = "without_audit"
    name = ground.database_url.rpartition("/")[2]
    execute(
        ground.database_url,
        f"create role {role} login",
        f"grant usage on schema capsule_reconciler to {role}",
        "grant select, insert, update, delete on all tables"
        f" in schema capsule_reconciler to {role}",
        f"grant select, update on sandboxes to {role}",
    )
    try:
        limited = ground.database_url.replace("postgres@", f"{role}@")
        lines = await refusal(tmp_path, **(ground.settings() | {"DATABASE_URL": limited}))
    finally:
        execute(ground.database_url, f"drop owned by {role}", f"drop role {role}")
    assert len(lines) == 1, name
    assert "audit_logs" in lines[0]
    assert role in lines[0]


async def test_a_database_that_does_not_exist_ends_the_start_with_one_line(
    ground: Ground, tmp_path: Path
) -> None:
    lines = await refusal(
        tmp_path, **(ground.settings() | {"DATABASE_URL": f"{ground.database_url}_not"})
    )
    assert len(lines) == 1
    assert "does not exist" in lines[0]


async def test_a_redis_user_without_rights_ends_the_start_with_one_line(
    ground: Ground, tmp_path: Path
) -> None:
    with closing(redis.Redis.from_url(ground.redis_url)) as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">pass", "~*", "+ping", "+hello")
        try:
            limited = ground.redis_url.replace("redis://", "redis://guest:pass@")
            lines = await refusal(tmp_path, **(ground.settings() | {"REDIS_URL": limited}))
        finally:
            client.execute_command("ACL", "DELUSER", "guest")
    assert len(lines) == 1
    assert "REDIS_URL" in lines[0]
    assert "pass" not in lines[0]


async def test_a_wrong_redis_password_ends_the_start_with_one_line(
    ground: Ground, tmp_path: Path
) -> None:
    wrong = ground.redis_url.replace("redis://", "redis://nobody:hunter2@")
    lines = await refusal(tmp_path, **(ground.settings() | {"REDIS_URL": wrong}))
    assert len(lines) == 1
    assert "hunter2" not in lines[0]


async def test_a_source_that_is_no_stream_ends_the_start_with_one_line(
    ground: Ground, tmp_path: Path
) -> None:
    with closing(redis.Redis.from_url(ground.redis_url)) as client:
        client.set(SOURCE, "not a stream")
    lines = await refusal(tmp_path, **ground.settings())
    assert len(lines) == 1
    assert SOURCE in lines[0]


async def test_another_number_of_partitions_ends_the_start_with_one_line(
    ground: Ground, tmp_path: Path
) -> None:
    worker = WorkerProcess(tmp_path / "first", **ground.settings())
    await worker.wait_for("partitions_taken")
    assert await worker.stop() == 0
    lines = await refusal(tmp_path, **ground.settings(CAPSULES_PARTITIONS="3"))
    assert len(lines) == 1
    assert "16" in lines[0]
    assert "3" in lines[0]


@pytest.mark.parametrize("absent", ["redis", "postgres"])
async def test_a_server_that_is_not_up_yet_is_waited_for(
    servers: EphemeralServers, ground: Ground, tmp_path: Path, absent: str
) -> None:
    if absent == "redis":
        servers.stop_redis()
    else:
        servers.stop_postgres("immediate")
    worker = WorkerProcess(tmp_path, **ground.settings())
    await worker.wait_for("waiting_for_server")
    servers.start_redis()
    servers.start_postgres()
    await worker.wait_for("partitions_taken")
    assert await worker.stop() == 0


async def test_a_worker_listens_on_no_port_unless_told_to(ground: Ground, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path, **ground.settings())
    await worker.wait_for("partitions_taken")
    process = psutil.Process(worker.process.pid)
    listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert await worker.stop() == 0
    assert listening == []


async def test_no_password_is_in_what_a_worker_prints_or_logs(
    ground: Ground, tmp_path: Path
) -> None:
    with closing(redis.Redis.from_url(ground.redis_url)) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">canary-secret", "~*", "&*", "+@all")
        try:
            url = ground.redis_url.replace("redis://", "redis://app:canary-secret@")
            database = ground.database_url.replace("postgres@", "postgres:canary-secret@")
            worker = WorkerProcess(
                tmp_path,
                **(
                    ground.settings(LOG_LEVEL="debug")
                    | {"REDIS_URL": url, "DATABASE_URL": database}
                ),
            )
            await worker.wait_for("partitions_taken")
            assert await worker.stop() == 0
        finally:
            client.execute_command("ACL", "DELUSER", "app")
    assert "canary-secret" not in worker.log_path.read_text(encoding="utf-8")
    assert "canary-secret" not in worker.output_path.read_text(encoding="utf-8")
