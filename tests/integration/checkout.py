"""A checkout with embedded servers, and other processes that own them, as tests see them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import redis

from config.server_process import is_alive
from config.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]

_START = """
import os, signal, sys, pathlib
from config.embedded import EmbeddedServers
from config.settings import load_settings
# Whoever runs the tests may have them ignored, and what is ignored stays so.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
servers = EmbeddedServers(load_settings({}, cwd=pathlib.Path(sys.argv[1])))
servers.start()
"""
_STARTED = 'print("started", flush=True)\n'
OWNER = _START + _STARTED
WAITS = OWNER + "signal.pause()\n"
DRAINS_ON_CTRL_C = (
    "import redis, psycopg2\n"
    + _START
    + "try:\n    "
    + _STARTED
    + """
    signal.pause()
except KeyboardInterrupt:
    redis.Redis.from_url(servers.settings.redis_url).set("drained", 1)
    psycopg2.connect(servers.settings.database_url).close()
    print("drained", flush=True)
"""
)


def settings_in(checkout: Path, **environ: str) -> Settings:
    return load_settings(environ, cwd=checkout)


def server_pids(checkout: Path) -> list[int]:
    """The processes in the pid files of the two servers that are alive."""
    files = (checkout / ".data/valkey/valkey.pid", checkout / ".data/postgres/postmaster.pid")
    pids = [int(file.read_text().split()[0]) for file in files if file.exists()]
    return [pid for pid in pids if is_alive(pid) and pid != os.getpid()]


@contextmanager
def owner(checkout: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has started the servers of this checkout."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(checkout)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert any(line.strip() == "started" for line in lines)
            yield process
        finally:
            process.kill()


def redis_says(url: str, *command: str) -> Any:
    with closing(redis.Redis.from_url(url, decode_responses=True)) as client:
        return client.execute_command(*command)


def postgres_says(url: str, statement: str) -> Any:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return (cursor.fetchone() or [None])[0]
