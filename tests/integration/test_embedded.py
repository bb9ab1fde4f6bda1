"""Embedded servers: found again by every process of a checkout, and stopped by whom it concerns."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
from structlog.testing import capture_logs

from config.embedded import EmbeddedServerError, EmbeddedServers, EphemeralServers, resolve_embedded
from config.server_process import answers, is_alive
from config.settings import Settings, load_settings
from tests.integration.conftest import execute

ROOT = Path(__file__).parents[2]

OWNER = """
import os, signal, sys, pathlib
from config.embedded import EmbeddedServers
from config.settings import load_settings
servers = EmbeddedServers(load_settings({}, cwd=pathlib.Path(sys.argv[1])))
servers.start()
print("started", flush=True)
"""
WAITS = OWNER + "signal.pause()\n"
DRAINS_ON_CTRL_C = (
    OWNER
    + """
import redis, psycopg2
try:
    signal.pause()
except KeyboardInterrupt:
    redis.Redis.from_url(servers.settings.redis_url).set("drained", 1)
    psycopg2.connect(servers.settings.database_url).close()
    print("drained", flush=True)
"""
)


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A directory such as a checkout: `.data` in it belongs to the embedded servers."""
    directory = Path(tempfile.mkdtemp(prefix="capsules-"))
    yield directory
    # Whatever a test has left running, also after it failed.
    for pid in server_pids(directory):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory)


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
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


def postgres_says(url: str, statement: str) -> Any:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return (cursor.fetchone() or [None])[0]


def test_both_servers_are_ready_and_safe_with_data(checkout: Path) -> None:
    with EmbeddedServers(settings_in(checkout)) as servers:
        redis_url, database_url = servers.settings.redis_url, servers.settings.database_url
        options = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
            "dir": str(checkout / ".data/valkey"),
        }
        assert {o: redis_says(redis_url, "CONFIG", "GET", o)[o] for o in options} == options
        assert postgres_says(database_url, "select current_database()") == "wrenn"
        assert postgres_says(database_url, "show fsync") == "on"
        assert postgres_says(database_url, "show listen_addresses") == "127.0.0.1"
        assert postgres_says(database_url, "show data_directory") == str(
            checkout / ".data/postgres"
        )
        assert len(server_pids(checkout)) == 2
    assert server_pids(checkout) == []


def test_data_are_there_again_the_next_time(checkout: Path) -> None:
    with EmbeddedServers(settings_in(checkout)) as servers:
        redis_says(servers.settings.redis_url, "SET", "k", "v")
        execute(servers.settings.database_url, "create table t as select 7 as n")
        before = servers.settings
    with EmbeddedServers(settings_in(checkout)) as servers:
        assert servers.settings == before
        assert redis_says(servers.settings.redis_url, "GET", "k") == "v"
        assert postgres_says(servers.settings.database_url, "select n from t") == 7


def test_only_what_is_embedded_is_started(checkout: Path) -> None:
    settings = settings_in(checkout, DATABASE_URL="postgresql://elsewhere/d")
    with EmbeddedServers(settings) as servers:
        assert servers.settings.database_url == "postgresql://elsewhere/d"
        assert redis_says(servers.settings.redis_url, "PING")
        assert not (checkout / ".data/postgres").exists()


def test_nothing_is_made_where_nothing_is_embedded(checkout: Path) -> None:
    settings = settings_in(checkout, DATABASE_URL="postgresql://h/d", REDIS_URL="redis://h")
    assert resolve_embedded(settings) == settings
    with EmbeddedServers(settings):
        assert list(checkout.iterdir()) == []


def test_the_addresses_are_known_before_the_servers_run_and_the_same_for_all(
    checkout: Path,
) -> None:
    first = resolve_embedded(settings_in(checkout))
    code = (
        "import sys, pathlib; from config.embedded import *; from config.settings import *;"
        "s = resolve_embedded(load_settings({}, cwd=pathlib.Path(sys.argv[1])));"
        "print(s.redis_url, s.database_url)"
    )
    # Not waited for one by one: they race for the file as workers that start together do.
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(checkout)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for other in others:
        assert other.communicate()[0].split() == [first.redis_url, first.database_url]
    with EmbeddedServers(first) as servers:  # resolved before, embedded all the same
        assert servers.settings == first
        assert len(server_pids(checkout)) == 2


@pytest.mark.parametrize("field", ["redis_url", "database_url"])
def test_a_port_that_a_stranger_took_is_replaced(field: str, checkout: Path) -> None:
    before = resolve_embedded(settings_in(checkout))
    name = {"redis_url": "redis", "database_url": "postgres"}[field]
    port = json.loads((checkout / ".data/ports.json").read_text())[name]
    with socket.create_server(("127.0.0.1", port)):
        after = resolve_embedded(settings_in(checkout))
        changed = {f for f in Settings.model_fields if getattr(before, f) != getattr(after, f)}
        assert changed == {field}
        with EmbeddedServers(after):
            assert len(server_pids(checkout)) == 2


def test_a_port_on_which_our_own_server_runs_is_kept(checkout: Path) -> None:
    with EmbeddedServers(settings_in(checkout)) as servers:
        assert resolve_embedded(settings_in(checkout)) == servers.settings


def test_a_spoilt_port_file_is_made_anew(checkout: Path) -> None:
    resolve_embedded(settings_in(checkout))
    (checkout / ".data/ports.json").write_text('{"redis": ')
    with EmbeddedServers(settings_in(checkout)):
        assert len(server_pids(checkout)) == 2


def test_a_second_process_uses_the_servers_and_leaves_them_running(checkout: Path) -> None:
    with owner(checkout, WAITS):
        pids = server_pids(checkout)
        with EmbeddedServers(settings_in(checkout)) as servers:
            assert redis_says(servers.settings.redis_url, "PING")
            assert server_pids(checkout) == pids
        assert server_pids(checkout) == pids


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_owner_stops_the_servers(sig: signal.Signals, checkout: Path) -> None:
    with owner(checkout, WAITS) as process:
        pids = server_pids(checkout)
        process.send_signal(sig)
        assert process.wait(30) == 128 + sig
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("end", ["", "raise RuntimeError", "sys.exit(3)"])
def test_any_end_of_the_owner_stops_the_servers(end: str, checkout: Path) -> None:
    with owner(checkout, OWNER + end) as process:
        process.wait(30)
    assert server_pids(checkout) == []
    assert not answers(json.loads((checkout / ".data/ports.json").read_text())["redis"])


def test_ctrl_c_leaves_the_servers_until_the_workers_have_drained(checkout: Path) -> None:
    with owner(checkout, DRAINS_ON_CTRL_C) as process:
        pids = server_pids(checkout)
        # As a terminal does: to every process of the foreground group.
        os.killpg(process.pid, signal.SIGINT)
        assert "drained" in process.communicate(timeout=30)[0].splitlines()
        assert process.returncode == 0
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


def test_the_servers_of_a_killed_owner_are_taken_over_and_then_stopped(checkout: Path) -> None:
    with owner(checkout, WAITS) as process:
        pids = server_pids(checkout)
        process.kill()
        process.wait(30)
    assert server_pids(checkout) == pids
    with EmbeddedServers(settings_in(checkout)):
        assert server_pids(checkout) == pids
    assert server_pids(checkout) == []


def test_a_kill_of_owner_and_servers_loses_nothing(checkout: Path) -> None:
    with owner(checkout, WAITS) as process:
        settings = resolve_embedded(settings_in(checkout))
        redis_says(settings.redis_url, "SET", "k", "v")
        execute(settings.database_url, "create table t as select 7 as n")
        for pid in (process.pid, *server_pids(checkout)):
            os.kill(pid, signal.SIGKILL)
    assert (checkout / ".data/postgres/postmaster.pid").exists()
    with EmbeddedServers(settings_in(checkout)) as servers:
        assert servers.settings == settings
        assert redis_says(settings.redis_url, "GET", "k") == "v"
        assert postgres_says(settings.database_url, "select n from t") == 7


def test_a_stale_pid_file_whose_number_is_in_use_again_does_not_matter(checkout: Path) -> None:
    with EmbeddedServers(settings_in(checkout)):
        postmaster = (checkout / ".data/postgres/postmaster.pid").read_text().splitlines()
    stale = "\n".join([str(os.getpid()), *postmaster[1:]]) + "\n"
    (checkout / ".data/postgres/postmaster.pid").write_text(stale)
    (checkout / ".data/valkey/valkey.pid").write_text(f"{os.getpid()}\n")
    with EmbeddedServers(settings_in(checkout)):
        assert len(server_pids(checkout)) == 2


def test_a_server_on_a_port_nobody_knows_any_more_is_replaced(checkout: Path) -> None:
    with owner(checkout, WAITS) as process:
        old = server_pids(checkout)
        process.kill()
        process.wait(30)
    (checkout / ".data/ports.json").unlink()
    with EmbeddedServers(settings_in(checkout)) as servers:
        assert redis_says(servers.settings.redis_url, "PING")
        assert postgres_says(servers.settings.database_url, "select 1") == 1
        assert not any(is_alive(pid) for pid in old)


def test_a_start_that_fails_leaves_nothing_running(checkout: Path) -> None:
    (checkout / ".data/postgres").mkdir(parents=True)
    (checkout / ".data/postgres/something").touch()
    with pytest.raises(EmbeddedServerError, match="is not empty") as caught:
        EmbeddedServers(settings_in(checkout)).start()
    assert "\n" not in str(caught.value)
    assert server_pids(checkout) == []


def test_it_is_said_which_server_runs_where_and_for_what(checkout: Path) -> None:
    with capture_logs() as records, EmbeddedServers(settings_in(checkout)) as servers:
        pass
    started = [r for r in records if r.get("action") == "embedded_server_started"]
    assert [r["url"] for r in started] == [
        servers.settings.redis_url,
        servers.settings.database_url,
    ]
    assert all(r["log_level"] == "warning" for r in started)
    assert all("for development only" in r["event"] for r in started)


def test_no_directory_is_opened_for_others_to_list(checkout: Path) -> None:
    with EmbeddedServers(settings_in(checkout)):
        assert checkout.stat().st_mode & 0o077 & ~0o011 == 0
        assert (checkout / ".data/postgres").stat().st_mode & 0o077 == 0


def test_a_killed_server_of_a_test_starts_again_with_its_data() -> None:
    directory = Path(tempfile.mkdtemp(prefix="capsules-"))
    try:
        with EphemeralServers(directory) as servers:
            redis_says(servers.redis_url, "SET", "k", "v")
            execute(servers.database_url, "create table t as select 7 as n")
            servers.kill_redis()
            with pytest.raises(redis.ConnectionError):
                redis_says(servers.redis_url, "PING")
            servers.start_redis()
            assert redis_says(servers.redis_url, "GET", "k") == "v"
            stops: tuple[Callable[[], None], ...] = (
                servers.stop_postgres,
                lambda: servers.stop_postgres("immediate"),
                servers.kill_postgres,
            )
            for stop in stops:
                stop()
                with pytest.raises(psycopg2.OperationalError):
                    postgres_says(servers.database_url, "select 1")
                servers.start_postgres()
                assert postgres_says(servers.database_url, "select n from t") == 7
            servers.stop_redis()
            assert postgres_says(servers.database_url, "show fsync") == "off"
            assert postgres_says(servers.database_url, "show max_connections") == "200"
    finally:
        shutil.rmtree(directory)


def test_the_servers_of_a_test_are_up_in_three_seconds() -> None:
    directory = Path(tempfile.mkdtemp(prefix="capsules-"))
    try:
        began = time.monotonic()
        with EphemeralServers(directory):
            assert time.monotonic() - began < 3
    finally:
        shutil.rmtree(directory)
