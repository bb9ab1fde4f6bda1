"""`run`, as `make run` starts it: servers, a worker and a publisher, all of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import psutil
import psycopg2
import pytest

COMMAND = [sys.executable, "-m", "faust", "-A", "streams.app", "run"]
OURS = ("CAPSULES_", "REDIS_URL", "DATABASE_URL", "LOG_LEVEL")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's own: that is closed to the system user Postgres runs as.
    path = Path(tempfile.mkdtemp(prefix="capsules-run-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Job:
    """A `run` with its output in a pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._family: list[psutil.Process] = []

    async def wait_for_line(self, text: str) -> str:
        """Read until a line has `text` in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            async for raw in self.process.stdout:
                self.lines.append(raw.decode().rstrip())
                if text in self.lines[-1]:
                    return self.lines[-1]
        raise AssertionError(f"ended without {text!r}: {self.lines}")

    async def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and the rest of the output."""
        async with asyncio.timeout(STOP_TIMEOUT_S):
            rest, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, rest.decode()

    def family(self) -> list[psutil.Process]:
        """All processes it has started, and theirs."""
        self._family = psutil.Process(self.process.pid).children(recursive=True)
        return self._family

    async def clean_up(self) -> None:
        """Leave nothing behind, also where the test has failed."""
        left = list(self._family)
        if self.process.returncode is None:
            left += [*self.family(), psutil.Process(self.process.pid)]
        for process in left:
            if process.is_running():
                process.kill()
        await self.process.communicate()

    def child(self, command: str) -> psutil.Process:
        """The process that runs one of this program's commands."""
        [found] = [
            process
            for process in psutil.Process(self.process.pid).children()
            if command in process.cmdline()
        ]
        return found


@asynccontextmanager
async def started(
    directory: Path, *options: str, environ: dict[str, str] | None = None
) -> AsyncIterator[Job]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *options,
        cwd=directory,
        env=inherited | {"CAPSULES_DATA_DIR": str(directory / "data")} | (environ or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    job = Job(process)
    try:
        yield job
    finally:
        await job.clean_up()


def assert_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def actions(log: Path) -> list[str]:
    """The actions in a log of JSON lines, in order."""
    found: list[str] = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            record: dict[str, Any] = json.loads(line)
            found += [record["action"]] if "action" in record else []
    return found


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
async def test_capsules_come_to_run_and_all_of_it_stops_in_order(
    directory: Path, sig: signal.Signals
) -> None:
    async with started(directory, "--rate=20") as job:
        page = (await job.wait_for_line("page: ")).partition("page: ")[2]
        await job.wait_for_line("starting -> running")
        await job.wait_for_line("events/s")
        async with aiohttp.ClientSession() as session, session.get(page) as answer:
            assert answer.status == 200
            assert "Topology" in await answer.text()
        family = job.family()
        assert len(family) >= 4  # two servers, the worker, the publisher
        asked = monotonic()
        job.process.send_signal(sig)
        code, output = await job.end()
    assert code == 0, output
    assert monotonic() - asked < STOP_TIMEOUT_S
    assert_gone(family)
    order = ["publisher stopped", "worker stopped", "embedded server stopped"]
    places = [output.index(text) for text in order]
    assert places == sorted(places)
    worker = actions(directory / "data" / "worker.log")
    assert worker.index("partitions_taken") < worker.index("sandbox_event")
    assert worker[-1] == "fleet_left"
    publisher = (directory / "data" / "publisher.log").read_text(encoding="utf-8")
    assert "published " in publisher


async def test_a_worker_that_dies_is_reported_with_its_last_lines(directory: Path) -> None:
    async with started(directory) as job:
        await job.wait_for_line("publisher: publishing")
        family = job.family()
        job.child("worker").kill()
        code, output = await job.end()
    assert code == 1
    assert "the worker has died (killed by SIGKILL); its last lines:\ninfo: " in output
    assert_gone(family)


async def test_without_the_demo_nobody_publishes(
    directory: Path, redis_url: str, empty_database_url: str
) -> None:
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": empty_database_url}
    async with started(directory, "--no-demo", environ=environ) as job:
        await job.wait_for_line("worker: ready")
        assert "publisher: off" in "\n".join(job.lines)
        line = await job.wait_for_line("events/s")
        job.process.send_signal(signal.SIGINT)
        code, _ = await job.end()
    assert "sandboxes: none" in line
    assert code == 0
    assert not (directory / "data" / "publisher.log").exists()


async def test_no_demo_is_played_on_the_database_of_a_real_control_plane(
    directory: Path, redis_url: str, empty_database_url: str
) -> None:
    with closing(psycopg2.connect(empty_database_url)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("create table sandboxes (id uuid, status text)")
        environ = {"REDIS_URL": redis_url, "DATABASE_URL": empty_database_url}
        async with started(directory, environ=environ) as job:
            code, output = await job.end()
        with connection.cursor() as cursor:
            cursor.execute("select count(*) from sandboxes")
            assert cursor.fetchone() == (0,)
    assert code == 1
    assert "--no-demo" in output
