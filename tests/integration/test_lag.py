"""`lag` says what is left to do and whose it is, also while nobody works."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run_command
from tests.event_log import generate
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import WorkerProcess, eventually

BILLING = json.dumps([{"name": "billing", "type": "log"}])


@pytest.fixture
def behind(ground: Ground) -> Ground:
    """Seven entries unread and three pending, over three streams, and nobody there."""
    with ground.redis() as client:
        client.hset(f"{PREFIX}topics", mapping={"capsules": 4, "hooks.gone": 4, "dead-letters": 1})
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        for n in range(5):
            client.xadd(SOURCE, {"payload": str(n)})
        client.xreadgroup(GROUP, "owner", {SOURCE: ">"}, count=2)
        for key, n in (("capsules:3", 3), ("hooks.gone:1", 2)):
            client.xgroup_create(PREFIX + key, GROUP, id="0", mkstream=True)
            for _ in range(n):
                client.xadd(PREFIX + key, {"v": "x"})
        client.xreadgroup(GROUP, "owner", {f"{PREFIX}capsules:3": ">"}, count=1)
    return ground


def lag(ground: Ground, directory: Path) -> dict[str, Any]:
    done = run_command(directory, ground.settings(), "lag", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_partition_is_counted_while_no_worker_is_there(behind: Ground, tmp_path: Path) -> None:
    found = lag(behind, tmp_path)
    streams = {stream["stream"]: stream for stream in found["streams"]}
    # As recorded by the workers: other numbers than this process has, and a sink it has not.
    assert {name: len(stream["partitions"]) for name, stream in streams.items()} == {
        SOURCE: 1,
        "capsules": 4,
        "hooks.gone": 4,
        "dead-letters": 1,
    }
    counts = {name: (stream["unread"], stream["pending"]) for name, stream in streams.items()}
    assert counts == {
        SOURCE: (3, 2),
        "capsules": (2, 1),
        "hooks.gone": (2, 0),
        "dead-letters": (0, 0),
    }
    capsules = streams["capsules"]["partitions"]
    assert [part["entries"] for part in capsules] == [0, 0, 0, 3]
    assert capsules[3]["oldest_age_s"] >= 0
    assert capsules[0]["oldest_age_s"] is None
    assert {part["owner"] for part in capsules} == {None}
    assert (found["total"]["unread"], found["total"]["pending"]) == (7, 3)


@pytest.mark.parametrize(("limit", "code"), [("10", 0), ("9", 3), ("0", 3)])
def test_more_than_the_limit_ends_with_3(
    behind: Ground, tmp_path: Path, limit: str, code: int
) -> None:
    done = run_command(tmp_path, behind.settings(), "lag", "--max", limit)
    assert done.returncode == code, done.stderr
    assert "partition 3" in done.stdout
    assert "nobody" in done.stdout


def test_the_table_fits_a_narrow_terminal(behind: Ground, tmp_path: Path) -> None:
    done = run_command(tmp_path, behind.settings(), "lag", "--all", columns=80)
    assert done.stdout.count("  partition ") == 8
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_looking_changes_nothing(behind: Ground, tmp_path: Path) -> None:
    def state() -> Any:
        with behind.redis() as client:
            keys = sorted(client.keys("*"))
            groups = [client.xinfo_groups(k) for k in keys if client.type(k) == b"stream"]
            return keys, groups, client.hgetall(f"{PREFIX}topics")

    before = state()
    lag(behind, tmp_path)
    assert state() == before


async def test_owners_are_named_and_a_killed_one_is_silent(ground: Ground, tmp_path: Path) -> None:
    worker = WorkerProcess(
        tmp_path / "worker",
        **ground.settings(CAPSULES_WORKER_NAME="one", CAPSULES_SINKS=BILLING),
    )
    await worker.wait_for("partitions_taken")
    log = generate(3, events=200, capsules=20)
    ground.load(log.rows)
    ground.publish(log.entries)
    await eventually(ground.drained, what="all done")
    with ground.redis() as client:
        await eventually(lambda: client.hlen(f"{PREFIX}figures"), what="figures")
    found = await asyncio.to_thread(lag, ground, tmp_path)
    parts = [part for stream in found["streams"] for part in stream["partitions"]]
    assert {(part["owner"], part["owner_silent"]) for part in parts} == {("one", False)}
    assert found["total"]["entries"] == 0
    worker.kill()
    with ground.redis() as client:
        client.delete(f"{PREFIX}figures")  # as after ten seconds
    found = await asyncio.to_thread(lag, ground, tmp_path)
    parts = [part for stream in found["streams"] for part in stream["partitions"]]
    assert {(part["owner"], part["owner_silent"]) for part in parts} == {("one", True)}


@pytest.mark.parametrize(
    "arguments", [["--max"], ["--max", "-1"], ["--max", "many"], ["--nonsense"], ["surplus"]]
)
def test_a_line_that_cannot_be_used_ends_with_2(
    ground: Ground, tmp_path: Path, arguments: list[str]
) -> None:
    done = run_command(tmp_path, ground.settings(), "lag", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["lag", "workers"])
def test_without_redis_one_line_says_so(tmp_path: Path, command: str) -> None:
    settings = {"REDIS_URL": "redis://127.0.0.1:9", "DATABASE_URL": "postgresql://127.0.0.1:9/no"}
    done = run_command(tmp_path, settings, command)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
