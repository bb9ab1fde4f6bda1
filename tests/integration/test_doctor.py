"""`doctor` sees each wrong setting, where it is really made, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
import redis
import redis.asyncio

from config.settings import Settings, load_settings
from streams.broker_url import broker_url
from streams.doctor import Examination, Finding, Verdict, examine
from streams.doctor.place_checks import check_clocks, check_embedded
from streams.transport.connection import connect
from tests.command_line import run_command
from tests.integration.conftest import execute
from tests.reconciliation import GROUP, PREFIX, SECRET, SOURCE, Ground

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
#: So the servers of the tests are set up, for speed.
FAST = {"redis.fsync", "postgres.durable"}
NOBODY = {"source.stream", "source.group", "fleet.workers"}


def settings_of(ground: Ground, **more: str) -> Settings:
    return load_settings(ground.settings(CAPSULES_LEASE_S="10", **more), cwd=Path.cwd())


async def look(ground: Ground, **more: str) -> Examination:
    settings = settings_of(ground, **more)

    @contextlib.asynccontextmanager
    async def client() -> AsyncIterator[redis.asyncio.Redis]:
        async with connect(broker_url(settings), timeout_s=5, name="test") as found:
            yield found

    return await examine(settings, client)


def verdicts(found: Examination) -> dict[str, Verdict]:
    """All that is not well."""
    return {
        name: finding.verdict
        for name, finding in found.findings.items()
        if finding.verdict is not OK and name not in FAST | NOBODY
    }


@contextlib.contextmanager
def configured(ground: Ground, **settings: str) -> Iterator[None]:
    """Redis with these settings, and as it was behind it."""
    with ground.redis() as client:
        names = {name.replace("_", "-"): value for name, value in settings.items()}
        before = {name: client.config_get(name)[name] for name in names}
        for name, value in names.items():
            client.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)


def database(url: str) -> str:
    return str(psycopg2.extensions.parse_dsn(url)["dbname"])


async def test_servers_that_are_set_up_right_have_no_complaint(ground: Ground) -> None:
    found = await look(ground)
    assert found.unanswered == []
    assert verdicts(found) == {}
    assert {name for name, f in found.findings.items() if f.verdict is not OK} == FAST | NOBODY


@pytest.mark.parametrize(
    ("settings", "check", "verdict"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "redis.eviction", FAIL),
        ({"maxmemory_policy": "volatile-ttl"}, "redis.eviction", WARN),
        ({"timeout": "300"}, "redis.idle-clients", WARN),
        ({"appendonly": "no", "save": ""}, "redis.persistence", FAIL),
        ({"appendonly": "no", "save": "3600 1"}, "redis.persistence", WARN),
        ({"maxmemory": "1mb"}, "redis.memory", FAIL),
    ],
)
async def test_redis_that_loses_or_refuses_is_seen(
    ground: Ground, settings: dict[str, str], check: str, verdict: Verdict
) -> None:
    with configured(ground, **settings):
        found = await look(ground)
    assert verdicts(found) == {check: verdict}
    assert found.findings[check].advice
    assert verdicts(await look(ground)) == {}


@pytest.mark.parametrize(("word", "verdict"), [("no", WARN), ("everysec", OK), ("always", OK)])
async def test_how_redis_writes_its_file_is_seen(
    ground: Ground, word: str, verdict: Verdict
) -> None:
    with configured(ground, appendfsync=word):
        assert (await look(ground)).findings["redis.fsync"].verdict is verdict


async def test_a_replica_is_seen(ground: Ground) -> None:
    with ground.redis() as client:
        client.replicaof("127.0.0.1", "9")
        try:
            found = await look(ground)
        finally:
            client.replicaof("NO", "ONE")
    assert verdicts(found)["redis.primary"] is FAIL


async def test_rights_that_a_worker_lacks_are_named(ground: Ground) -> None:
    with ground.redis() as client:
        rules = ["on", ">secret", "~*", "&*", "+@all", "-xtrim", "-client|kill", "-xdel"]
        client.execute_command("ACL", "SETUSER", "limited", *rules)
        url = ground.redis_url.replace("redis://", "redis://limited:secret@")
        try:
            found = await look(Ground(url, ground.database_url))
            client.execute_command("ACL", "SETUSER", "limited", "+@all", "-acl", "-config")
            unasked = await look(Ground(url, ground.database_url))
        finally:
            client.execute_command("ACL", "DELUSER", "limited")
    assert verdicts(found) == {"redis.rights": FAIL}
    for name in ("XTRIM", "CLIENT KILL", "XDEL"):
        assert name in found.findings["redis.rights"].seen
    assert "XADD" not in found.findings["redis.rights"].seen
    assert unasked.findings["redis.rights"].verdict is WARN
    assert unasked.findings["redis.idle-clients"].verdict is WARN


async def test_a_source_that_is_no_stream_is_seen(ground: Ground) -> None:
    with ground.redis() as client:
        client.set(SOURCE, "x")
    found = await look(ground)
    assert found.findings["source.stream"].verdict is FAIL
    assert found.findings["source.group"].verdict is FAIL


async def test_a_group_that_would_begin_behind_what_is_there_is_seen(ground: Ground) -> None:
    with ground.redis() as client:
        client.xadd(SOURCE, {"payload": "x"})
        found = await look(ground, CAPSULES_SOURCE_START_ID="$")
        assert found.findings["source.group"].verdict is WARN
        assert "never be read" in found.findings["source.group"].seen
        client.xgroup_create(SOURCE, GROUP, id="0")
        assert (await look(ground)).findings["source.group"].verdict is OK


async def test_strangers_in_the_group_are_seen(ground: Ground) -> None:
    with ground.redis() as client:
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        client.xadd(SOURCE, {"payload": "x"})
        client.xreadgroup(GROUP, "gone\x1b[31m", {SOURCE: ">"}, count=1)
        at_work = (await look(ground)).findings["source.strangers"]
        client.execute_command(
            *("XCLAIM", SOURCE, GROUP, "gone\x1b[31m", 0, "0-1", "IDLE", 90_000, "JUSTID")
        )
        await asyncio.sleep(1.1)
        gone = (await look(ground, CAPSULES_FOREIGN_IDLE_S="1")).findings["source.strangers"]
    assert at_work.verdict is FAIL
    assert gone.verdict is WARN
    assert not any("\x1b" in f.seen for f in (at_work, gone))


async def test_entries_that_are_about_to_be_trimmed_unread_are_seen(ground: Ground) -> None:
    """With a producer that keeps 100, and is at work."""
    with ground.redis() as client:
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        for _ in range(150):
            client.xadd(SOURCE, {"payload": "x"}, maxlen=100, approximate=False)
        full = (await look(ground)).findings["source.trimming"]
        client.xgroup_setid(SOURCE, GROUP, "$")
        calm = (await look(ground)).findings["source.trimming"]
        done = threading.Event()

        def produce() -> None:
            with ground.redis() as other:
                while not done.wait(0.02):
                    other.xadd(SOURCE, {"payload": "x"}, maxlen=100, approximate=False)
                    other.xgroup_setid(SOURCE, GROUP, "$")

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            fast = (await look(ground)).findings["source.trimming"]
        finally:
            done.set()
            producer.join()
    assert (full.verdict, calm.verdict, fast.verdict) == (FAIL, OK, FAIL)
    assert "100 unread of 100" in full.seen
    assert "replace a dead worker" in fast.advice


async def test_another_number_of_partitions_and_sinks_that_are_gone_are_seen(
    ground: Ground,
) -> None:
    with ground.redis() as client:
        client.hset(f"{PREFIX}topics", mapping={"capsules": 32, "hooks.gone": 16})
        client.xadd(f"{PREFIX}hooks.gone:3", {"v": "x"})
    assert verdicts(await look(ground)) == {"topics.partitions": FAIL, "topics.orphans": WARN}


async def test_postgres_that_refuses_to_be_written_is_seen(ground: Ground) -> None:
    name = database(ground.database_url)
    execute(ground.database_url, f"alter database {name} set default_transaction_read_only = on")
    assert verdicts(await look(ground))["postgres.read-only"] is FAIL


async def test_a_schema_that_is_not_there_is_seen(ground: Ground, empty_database_url: str) -> None:
    found = await look(Ground(ground.redis_url, empty_database_url))
    assert verdicts(found) == {"postgres.schema": FAIL, "postgres.index": FAIL}
    assert "migrate" in found.findings["postgres.schema"].advice or "DATABASE_URL" in (
        found.findings["postgres.schema"].advice
    )


async def test_a_missing_index_is_seen(ground: Ground) -> None:
    execute(ground.database_url, "alter table sandboxes drop constraint sandboxes_pkey cascade")
    assert verdicts(await look(ground)) == {"postgres.index": FAIL}


async def test_too_few_connections_are_seen(ground: Ground) -> None:
    name = database(ground.database_url)
    execute(ground.database_url, f"alter database {name} connection limit 10")
    assert verdicts(await look(ground)) == {"postgres.connections": WARN}
    found = await look(ground, CAPSULES_POSTGRES_POOL_SIZE="11")
    assert verdicts(found) == {"postgres.connections": FAIL}


async def test_timeouts_that_do_not_fit_each_other_are_seen(ground: Ground) -> None:
    for more in (
        {"CAPSULES_LOCK_TIMEOUT_MS": "10000"},
        {"CAPSULES_DRAIN_TIMEOUT_S": "5"},
        {"CAPSULES_REDIS_TIMEOUT_S": "10"},
    ):
        assert verdicts(await look(ground, **more)) == {"postgres.timeouts": WARN}, more


async def test_sinks_that_cannot_be_found_are_seen_and_none_is_sent_anything(
    ground: Ground,
) -> None:
    asked: list[object] = []
    server = await asyncio.start_server(lambda *_: asked.append(1), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    urls = {
        "lost": "https://no-such-host.invalid/",
        "plain": f"http://127.0.0.1:{port}/",
        "good": f"https://127.0.0.1:{port}/",
    }
    sinks: list[dict[str, object]] = [
        {"name": n, "type": "webhook", "url": u, "secret": SECRET, "allow_private": True}
        for n, u in urls.items()
    ]
    sinks.append(sinks[-1] | {"name": "inside", "allow_private": False})
    async with server:
        found = await look(ground, CAPSULES_SINKS=json.dumps(sinks))
    assert verdicts(found) == {
        "sink.lost": FAIL,
        "sink.plain": WARN,
        "sink.inside": FAIL,
    }
    assert found.findings["sink.good"].verdict is OK
    assert asked == []


async def test_clocks_apart_and_embedded_servers_are_seen(ground: Ground) -> None:
    class Clock:
        clock_offset_s, clock_error_s = 1.5, 0.1

    clock: Any = Clock()
    assert check_clocks(clock, None).verdict is WARN
    assert "Redis is 1.5 s ahead" in check_clocks(clock, None).seen
    clock.clock_error_s = 0.6
    assert check_clocks(clock, None).verdict is OK
    assert check_embedded(("Redis",)).verdict is WARN
    assert check_embedded(()) == Finding(OK, "servers of their own")


def test_looking_changes_nothing(ground: Ground) -> None:
    with ground.redis() as client:
        client.xadd(SOURCE, {"payload": "x"})
        client.xgroup_create(SOURCE, GROUP, id="0")
        before = (sorted(client.keys("*")), client.xinfo_groups(SOURCE))
        asyncio.run(look(ground))
        assert (sorted(client.keys("*")), client.xinfo_groups(SOURCE)) == before


def test_the_exit_code_says_whether_something_fails(ground: Ground, tmp_path: Path) -> None:
    settings = ground.settings(CAPSULES_LEASE_S="10")
    fine = run_command(tmp_path, settings, "doctor", columns=80)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert max(map(len, fine.stdout.splitlines())) <= 80
    assert run_command(tmp_path, settings, "doctor", "--strict").returncode == 3
    with configured(ground, maxmemory_policy="allkeys-lru"):
        failing = run_command(tmp_path, settings, "doctor", "--json")
    assert failing.returncode == 3
    document = json.loads(failing.stdout)
    assert document["verdict"] == "fail"
    assert [c["check"] for c in document["checks"] if c["verdict"] == "fail"] == ["redis.eviction"]


def test_a_server_that_is_away_is_named_and_the_other_one_checked(
    ground: Ground, tmp_path: Path
) -> None:
    settings = ground.settings() | {"REDIS_URL": "redis://127.0.0.1:9"}
    done = run_command(tmp_path, settings, "doctor")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Redis: ")
    assert "postgres.schema" in done.stdout


@pytest.mark.parametrize("arguments", [["--nonsense"], ["surplus"], ["--strict", "--strictly"]])
def test_a_line_that_cannot_be_used_ends_with_2(
    ground: Ground, tmp_path: Path, arguments: list[str]
) -> None:
    done = run_command(tmp_path, ground.settings(), "doctor", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
