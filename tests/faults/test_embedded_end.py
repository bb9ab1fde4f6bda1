"""When embedded servers end and when they go on: signals, crashes, owners that are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from config.embedded import EmbeddedServers, resolve_embedded
from config.server_process import answers, is_alive
from tests.integration.checkout import (
    DRAINS_ON_CTRL_C,
    OWNER,
    WAITS,
    owner,
    postgres_says,
    redis_says,
    server_pids,
    settings_in,
)
from tests.integration.conftest import execute


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
        postgres_file = checkout / ".data/postgres/postmaster.pid"
        lines = postgres_file.read_text().splitlines()
    # Of Postgres's own user: the number of somebody else's process does not deceive it.
    user = postgres_file.parent.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "60"], user=user) as stranger:
        postgres_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        (checkout / ".data/valkey/valkey.pid").write_text(f"{stranger.pid}\n")
        with EmbeddedServers(settings_in(checkout)):
            assert len(server_pids(checkout)) == 2
        assert stranger.poll() is None
        stranger.kill()


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
