"""Postgres goes wrong and comes right again: the worker says so, waits, and needs no restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import psycopg2
import pytest

from config.embedded import EphemeralServers
from tests.faults.culprit import counted, is_counted, is_named
from tests.faults.scene import Scene, hold_scene
from tests.integration.conftest import execute
from tests.reconciliation import Ground
from tests.worker_process import eventually

#: What health and topology call it.
CULPRIT = "postgres"
#: A role that is not above all limits, as the one that is used in tests else.
ROLE = "limited"


@dataclass(frozen=True)
class Outage:
    """A fault that lasts as long as the context, and what the worker says of it."""

    fault: Callable[[Scene], AbstractAsyncContextManager[None]]
    #: The worker is not ready meanwhile; else it may be so, now and then.
    unready: bool = True
    settings: dict[str, str] = field(default_factory=dict)
    #: Health and topology name Postgres; else it is over before they can, and only counted.
    named: bool = True


def admin(scene: Scene, *statements: str) -> None:
    """Run statements in the worker's database, also where it is read-only."""
    url = scene.ground.database_url
    execute(f"{url}?options=-c%20default_transaction_read_only%3Doff", *statements)


def end_sessions(scene: Scene) -> None:
    admin(
        scene,
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'capsule-reconciler'",
    )


@asynccontextmanager
async def stopped(scene: Scene) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.servers.stop_postgres, "fast")
    yield
    await asyncio.to_thread(scene.servers.start_postgres)


@asynccontextmanager
async def crashed(scene: Scene) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.servers.stop_postgres, "immediate")
    yield
    await asyncio.to_thread(scene.servers.start_postgres)


@asynccontextmanager
async def again_and_again(scene: Scene, what: Callable[[], None]) -> AsyncIterator[None]:
    over = asyncio.Event()

    async def repeat() -> None:
        while not over.is_set():
            await asyncio.to_thread(what)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.02)

    repeating = asyncio.create_task(repeat())
    try:
        yield
    finally:
        over.set()
        await repeating


@asynccontextmanager
async def row_held(scene: Scene, rows: str) -> AsyncIterator[None]:
    with closing(psycopg2.connect(scene.ground.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(rows)
        yield
        connection.commit()


def all_rows_held(scene: Scene) -> AbstractAsyncContextManager[None]:
    return row_held(scene, "update sandboxes set memory_mb = 7")


def table_held(scene: Scene) -> AbstractAsyncContextManager[None]:
    return row_held(scene, "lock table sandboxes in access exclusive mode")


def one_mark_held(scene: Scene) -> AbstractAsyncContextManager[None]:
    """As by a session of a dead worker, which its server has not noticed yet."""
    return row_held(
        scene, "select 1 from capsule_reconciler.watermarks order by capsule_id for update"
    )


@asynccontextmanager
async def sessions_ended(scene: Scene) -> AsyncIterator[None]:
    async with table_held(scene), again_and_again(scene, lambda: end_sessions(scene)):
        yield


@asynccontextmanager
async def statements_cancelled(scene: Scene) -> AsyncIterator[None]:
    def cancel() -> None:
        admin(
            scene,
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where application_name = 'capsule-reconciler'",
        )

    async with table_held(scene), again_and_again(scene, cancel):
        yield


@asynccontextmanager
async def read_only(scene: Scene) -> AsyncIterator[None]:
    """As after a failover, when the old primary has become a standby."""
    admin(scene, "alter system set default_transaction_read_only = on", "select pg_reload_conf()")
    try:
        yield
    finally:
        admin(scene, "alter system reset default_transaction_read_only", "select pg_reload_conf()")


@asynccontextmanager
async def no_connection_free(scene: Scene) -> AsyncIterator[None]:
    admin(scene, f"alter role {ROLE} connection limit 0")
    end_sessions(scene)
    try:
        yield
    finally:
        admin(scene, f"alter role {ROLE} connection limit -1")


@asynccontextmanager
async def right_taken_away(scene: Scene) -> AsyncIterator[None]:
    admin(scene, f"revoke update on sandboxes from {ROLE}")
    yield
    admin(scene, f"grant update on sandboxes to {ROLE}")


@asynccontextmanager
async def disk_full(scene: Scene) -> AsyncIterator[None]:
    """The error as Postgres gives it; a full disk of its own would need the right to mount one."""
    admin(
        scene,
        "create function is_full() returns trigger language plpgsql as $$ begin"
        " raise exception 'could not extend file' using errcode = 'disk_full'; end $$",
        "create trigger is_full before insert or update on capsule_reconciler.watermarks"
        " execute function is_full()",
    )
    yield
    admin(scene, "drop trigger is_full on capsule_reconciler.watermarks")


@asynccontextmanager
async def packets_swallowed(scene: Scene) -> AsyncIterator[None]:
    scene.postgres_proxy.is_blackhole = True
    yield
    scene.postgres_proxy.is_blackhole = False


@asynccontextmanager
async def answers_to_commits_lost(scene: Scene) -> AsyncIterator[None]:
    scene.postgres_proxy.lose_replies(b"execute capsules_", times=6)
    yield
    await eventually(lambda: scene.postgres_proxy.lost_replies == 6, what="lost answers")


LIMITED = {"DATABASE_URL": ROLE}
OUTAGES = {
    "it is stopped and started": Outage(stopped),
    "it crashes and recovers": Outage(crashed),
    "its sessions are ended again and again": Outage(sessions_ended),
    "its statements are cancelled again and again": Outage(statements_cancelled),
    "it is read-only, as after a failover": Outage(read_only),
    "no connection is free": Outage(no_connection_free, settings=LIMITED),
    "a right is taken away": Outage(right_taken_away, settings=LIMITED),
    "its disk is full": Outage(disk_full),
    "a long transaction holds all rows": Outage(all_rows_held),
    "the watermarks are held": Outage(one_mark_held),
    "packets are swallowed": Outage(packets_swallowed),
    "answers to commits are lost": Outage(answers_to_commits_lost, unready=False, named=False),
}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
async def test_postgres_recovers_and_so_does_the_worker_when(
    servers: EphemeralServers, ground: Ground, tmp_path: Path, outage: Outage
) -> None:
    settings = dict(outage.settings)
    if outage.settings is LIMITED:
        settings["DATABASE_URL"] = limited_role(servers, ground)
    async with hold_scene(servers, ground, tmp_path, settings=settings) as scene:
        before, failed = scene.said(), await counted(scene.worker)
        async with outage.fault(scene):
            began = monotonic()
            scene.publish(len(scene.log.entries) // 3)
            if outage.named:
                await is_named(scene.worker, CULPRIT, began=began)
            await scene.says("stage_retry", before)
            if outage.unready:
                await scene.is_ready(expected=False)
        if not outage.named:
            await is_counted(scene.worker, CULPRIT, before=failed)
        scene.publish()
        await scene.all_done()
        await scene.is_ready()
        await scene.close_account()


def limited_role(servers: EphemeralServers, ground: Ground) -> str:
    """Make a role that has the rights a worker needs and no others; return its URL."""
    execute(
        ground.database_url,
        f"do $$ begin create role {ROLE} login; exception when duplicate_object then null; end $$",
        f"grant select, update on sandboxes to {ROLE}",
        f"grant insert on audit_logs to {ROLE}",
        f"grant usage on schema capsule_reconciler to {ROLE}",
        f"grant all on all tables in schema capsule_reconciler to {ROLE}",
    )
    return ground.database_url.replace("//postgres@", f"//{ROLE}@")


async def test_postgres_is_not_there_yet_when_the_worker_starts(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    async with hold_scene(servers, ground, tmp_path, start=False) as scene:
        await asyncio.to_thread(servers.stop_postgres)
        scene.publish()
        await scene.worker.wait_for("waiting_for_server")
        assert not scene.ready_file.exists()
        await asyncio.to_thread(servers.start_postgres)
        await scene.is_ready()
        await scene.all_done()
        await scene.close_account()
