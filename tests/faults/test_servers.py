"""A worker and the commands on each kind of Redis, as the settings ask for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.command_line import run_command
from tests.integration.transport.nodes import (
    Certificates,
    ClusterNode,
    Node,
    running,
    serve_tls,
    watched_pair,
)
from tests.reconciliation import PREFIX, Ground
from tests.worker_process import WorkerProcess, eventually


@contextlib.asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[tuple[Node, dict[str, str]]]:
    node = ClusterNode(directory)
    with running(node):
        await node.take_all_slots()
        yield node, {"REDIS_URL": f"redis://{node.address}", "CAPSULES_REDIS_CLUSTER": "on"}


@contextlib.asynccontextmanager
async def sentinel(directory: Path) -> AsyncIterator[tuple[Node, dict[str, str]]]:
    async with watched_pair(directory) as (primary, replica, sentinel):
        # The replica is no Sentinel: the next host is asked.
        url = f"redis://{replica.address},{sentinel.address}/0"
        yield primary, {"REDIS_URL": url, "CAPSULES_REDIS_SENTINEL": "main"}


@contextlib.asynccontextmanager
async def tls(directory: Path) -> AsyncIterator[tuple[Node, dict[str, str]]]:
    certificates, node = Certificates(directory / "certificates"), Node(directory / "n1")
    with running(node):
        async with serve_tls(node, certificates.server_context()) as port:
            files = "&".join(
                f"ssl_{name}={certificates.path(file)}"
                for name, file in {
                    "ca_certs": "ca.crt",
                    "certfile": "client.crt",
                    "keyfile": "client.key",
                }.items()
            )
            yield node, {"REDIS_URL": f"rediss://127.0.0.1:{port}/0?{files}"}


KINDS = {"cluster": cluster, "sentinel": sentinel, "tls": tls}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_and_the_commands_run_on_each_kind_of_redis(
    tmp_path: Path, database_url: str, kind: str
) -> None:
    async with KINDS[kind](tmp_path / "redis") as (node, settings):
        ground = Ground(node.url(), database_url)
        environ = ground.settings() | settings
        worker = WorkerProcess(tmp_path / "worker", **environ)
        try:
            await worker.wait_for("partitions_taken")
            ground.publish([("1-1", b"not JSON")])
            await eventually(lambda: ground.outcome().dead_lettered == ["1-1"], what="its end")
            status = await asyncio.to_thread(read_status, tmp_path, environ)
            assert status["dead_letters"] == 1
            assert await worker.stop() == 0
        finally:
            worker.kill()
        with ground.redis() as client:
            assert client.hget(f"{PREFIX}topics", "capsules") == b"16"


def read_status(directory: Path, environ: dict[str, str]) -> dict[str, object]:
    """What the command ``status`` says."""
    done = run_command(directory, environ, "status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


async def test_a_certificate_that_is_not_trusted_ends_the_start_with_one_line(
    tmp_path: Path, database_url: str
) -> None:
    async with tls(tmp_path / "redis") as (node, settings):
        url = settings["REDIS_URL"].partition("?")[0]
        environ = Ground(node.url(), database_url).settings(REDIS_URL=url)
        worker = WorkerProcess(tmp_path / "worker", **environ)
        assert await worker.ended() == 1
    (line,) = worker.log_path.read_text(encoding="utf-8").splitlines()
    assert line.startswith("REDIS_URL: Redis' certificate is not accepted")


async def test_a_file_for_tls_that_is_missing_ends_the_start_with_one_line(
    tmp_path: Path, database_url: str
) -> None:
    environ = Ground("rediss://127.0.0.1/0?ssl_ca_certs=/no/such/file", database_url).settings()
    worker = WorkerProcess(tmp_path / "worker", **environ)
    assert await worker.ended() == 1
    (line,) = worker.log_path.read_text(encoding="utf-8").splitlines()
    assert line == "REDIS_URL: a file for TLS cannot be read: No such file or directory"
