"""Embedded servers: every process of a checkout finds the same ones, with their data."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
import redis
from structlog.testing import capture_logs

from config.embedded import EmbeddedServerError, EmbeddedServers, EphemeralServers, resolve_embedded
from config.settings import Settings
from tests.integration.checkout import ROOT, postgres_says, redis_says, server_pids, settings_in
from tests.integration.conftest import execute


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
