"""`workers` says who is there and how they are."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

from tests.command_line import run_command
from tests.reconciliation import PREFIX, Ground
from tests.worker_process import WorkerProcess, eventually


async def workers(ground: Ground, directory: Path, *, code: int = 0) -> dict[str, Any]:
    done = await asyncio.to_thread(run_command, directory, ground.settings(), "workers", "--json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_each_worker_is_shown_with_its_partitions(ground: Ground, tmp_path: Path) -> None:
    assert await workers(ground, tmp_path, code=3) == {"version": 1, "workers": [], "silent": []}
    nodes = [
        WorkerProcess(tmp_path / name, **ground.settings(CAPSULES_WORKER_NAME=name))
        for name in ("one", "two")
    ]
    for node in nodes:
        await node.wait_for("partitions_taken")
    await eventually(lambda: ground.is_shared_by(2), what="all shared")
    shares = ground.shares()
    assert sum(shares) == 18

    async def seen() -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = (await workers(ground, tmp_path))["workers"]
        return listed

    deadline = time.monotonic() + 30
    while sorted(sum(map(len, said["partitions"].values())) for said in await seen()) != shares:
        assert time.monotonic() < deadline
    told = await seen()
    assert [said["worker"] for said in told] == ["one", "two"]
    capsules = [set(said["partitions"].get("capsules", ())) for said in told]
    assert capsules[0] | capsules[1] == set(range(16))
    assert not capsules[0] & capsules[1]
    for said, node in zip(told, nodes, strict=True):
        assert said["pid"] == node.process.pid
        assert said["ready"]
        assert said["rss_bytes"] > 10 * 2**20
        assert 0 < said["up_s"] < 120
        assert said["version"]
    for node in nodes:
        assert await node.stop() == 0


async def test_a_frozen_worker_is_listed_as_silent(ground: Ground, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path / "one", **ground.settings(CAPSULES_WORKER_NAME="one"))
    await worker.wait_for("partitions_taken")
    worker.signal(signal.SIGSTOP)
    with ground.redis() as client:
        client.delete(f"{PREFIX}figures")  # as after ten seconds
    found = await workers(ground, tmp_path, code=3)
    assert found["workers"] == []
    assert found["silent"] == [{"worker": "one", "partitions": 18}]
    worker.kill()


async def test_why_a_worker_is_not_ready_is_shown(ground: Ground, tmp_path: Path) -> None:
    figures = {
        "at_s": time.time(),
        "worker": "\x1b[31mone",
        "version": "1",
        "pid": 1,
        "up_s": 5.0,
        "cpu": 0.5,
        "rss_bytes": 2**30,
        "not_ready": "Postgres [gone]\n\x07",
        "partitions": {},
    }
    with ground.redis() as client:
        client.hset(f"{PREFIX}figures", "one", json.dumps(figures))
        strange = json.dumps({"at_s": time.time(), "worker": 7, "partitions": []})
        client.hset(f"{PREFIX}figures", "strange", strange)
    done = await asyncio.to_thread(run_command, tmp_path, ground.settings(), "workers", columns=80)
    assert done.returncode == 0, done.stderr
    assert "\\x1b[31mone" in done.stdout
    assert "Postgres [gone]" in done.stdout.replace("\n", " ") or "[gone]" in done.stdout
    assert not {"\x1b", "\x07"} & set(done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 80
