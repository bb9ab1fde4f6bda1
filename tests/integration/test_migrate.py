"""Migrations and the check of what the reconciler needs, on a real Postgres."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

import config.migrate
from config.embedded import EphemeralServers
from config.migrate import MigrationError, check_schema, migrate
from tests.integration.conftest import execute

OWN = ["0001_watermarks.sql", "0002_dead_letters.sql", "0003_gaps.sql"]
OWN_TABLES = ["watermarks", "dead_letters", "gaps", "gap_entries", "positions"]
DEV = ["dev/0001_control_plane.sql"]


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def tables(url: str) -> set[str]:
    found = rows(
        url,
        "select schemaname || '.' || tablename from pg_tables "
        "where schemaname not in ('pg_catalog', 'information_schema')",
    )
    return {name for (name,) in found}


@pytest.fixture
def limited_url(servers: EphemeralServers, database_url: str) -> Iterator[str]:
    """The same database for a role that has no rights on anything."""
    role = f"limited_{uuid.uuid4().hex[:8]}"
    execute(database_url, f"create role {role} login")
    yield database_url.replace("postgres@", f"{role}@")
    execute(database_url, f"drop owned by {role}", f"drop role {role}")


def role_of(url: str) -> str:
    return urlsplit(url).username or ""


def test_only_our_own_schema_is_made(empty_database_url: str) -> None:
    assert migrate(empty_database_url, dev=False) == OWN
    assert tables(empty_database_url) == {
        f"capsule_reconciler.{name}" for name in (*OWN_TABLES, "schema_migrations")
    }


def test_dev_also_makes_the_tables_of_the_control_plane(empty_database_url: str) -> None:
    assert migrate(empty_database_url, dev=True) == OWN + DEV
    assert {"public.sandboxes", "public.audit_logs"} <= tables(empty_database_url)
    assert check_schema(empty_database_url) == []


def test_a_second_run_applies_nothing(empty_database_url: str) -> None:
    migrate(empty_database_url, dev=False)
    assert migrate(empty_database_url, dev=False) == []
    assert migrate(empty_database_url, dev=True) == DEV
    assert migrate(empty_database_url, dev=True) == []


def test_of_many_at_once_exactly_one_applies(empty_database_url: str) -> None:
    barrier = threading.Barrier(6)

    def run() -> list[str]:
        barrier.wait(timeout=30)
        return migrate(empty_database_url, dev=True)

    with ThreadPoolExecutor(6) as pool:
        results = [future.result() for future in [pool.submit(run) for _ in range(6)]]
    assert sorted(results) == sorted([OWN + DEV, [], [], [], [], []])


def test_tables_that_are_there_are_left_as_they_are(empty_database_url: str) -> None:
    execute(empty_database_url, "create table sandboxes (id uuid, other int)")
    migrate(empty_database_url, dev=True)
    columns = (
        "select attname from pg_attribute where attnum > 0 and attrelid = 'sandboxes'::regclass"
    )
    assert sorted(rows(empty_database_url, columns)) == [("id",), ("other",)]
    indexes = "select indexname from pg_indexes where tablename = 'sandboxes'"
    assert rows(empty_database_url, indexes) == []


def test_the_dev_tables_have_the_indexes_of_the_control_plane(database_url: str) -> None:
    definitions = rows(
        database_url,
        "select indexdef from pg_indexes where tablename in ('sandboxes', 'audit_logs')",
    )
    columns = {definition.partition("USING btree ")[2] for (definition,) in definitions}
    assert columns == {
        "(id)",
        "(status)",
        "(host_id, status)",
        "(team_id)",
        "(team_id, created_at DESC, id DESC)",
        "(team_id, resource_type, created_at DESC)",
    }


def test_a_watermark_leaves_room_on_its_page(database_url: str) -> None:
    options = (
        "select reloptions from pg_class where oid = 'capsule_reconciler.watermarks'::regclass"
    )
    assert rows(database_url, options) == [(["fillfactor=80"],)]


def test_a_failing_migration_leaves_nothing_behind(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001_good.sql").write_text("create table capsule_reconciler.good (id int)")
    (tmp_path / "0002_bad.sql").write_text("create table bad (\n  id nosuchtype\n)")
    monkeypatch.setattr(config.migrate, "_DIRECTORY", tmp_path)
    with pytest.raises(MigrationError, match=r"^migrate: 0002_bad\.sql: type .* exist$"):
        migrate(empty_database_url, dev=False)
    assert tables(empty_database_url) == set()


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001_a.sql").write_text("select 1")
    monkeypatch.setattr(config.migrate, "_DIRECTORY", tmp_path)
    migrate(empty_database_url, dev=False)
    (tmp_path / "0001_a.sql").write_text("select 2")
    with pytest.raises(MigrationError, match=r"0001_a\.sql was changed after it had been applied"):
        migrate(empty_database_url, dev=False)


def test_a_role_without_the_right_to_create_finds_nothing_to_do(limited_url: str) -> None:
    execute(
        limited_url.replace(role_of(limited_url), "postgres"),
        f"grant usage on schema capsule_reconciler to {role_of(limited_url)}",
        f"grant select on capsule_reconciler.schema_migrations to {role_of(limited_url)}",
    )
    assert migrate(limited_url, dev=False) == []


@pytest.mark.parametrize("ask", [check_schema, lambda url: migrate(url, dev=False)])
@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hush@127.0.0.1:1/d", "postgresql://u:hush@127.0.0.1:1/d?nosuch=1", "embedded"],
)
def test_a_database_that_cannot_be_reached_is_one_clear_line(ask: Any, url: str) -> None:
    with pytest.raises(MigrationError) as caught:
        ask(url)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_database_without_our_schema_says_what_to_run(empty_database_url: str) -> None:
    sandboxes, audit_logs, own = check_schema(empty_database_url)
    assert sandboxes.startswith("table sandboxes is missing in database test_")
    assert audit_logs.startswith("table audit_logs is missing")
    assert own.startswith("schema capsule_reconciler is missing in database test_")
    assert own.endswith("run `faust -A streams.app migrate`")


@pytest.mark.parametrize("table", OWN_TABLES)
def test_each_missing_table_is_told(database_url: str, table: str) -> None:
    execute(database_url, f"drop table capsule_reconciler.{table} cascade")
    (line,) = check_schema(database_url)
    assert line.startswith(f"table capsule_reconciler.{table} is missing")
    assert line.endswith("run `faust -A streams.app migrate`")


def test_each_missing_column_is_told(database_url: str) -> None:
    execute(
        database_url,
        "alter table sandboxes drop column host_ip",
        "alter table audit_logs drop column scope",
        "alter table capsule_reconciler.watermarks drop column seq",
    )
    lines = check_schema(database_url)
    assert [line.split(" is missing")[0] for line in lines] == [
        "column sandboxes.host_ip",
        "column audit_logs.scope",
        "column capsule_reconciler.watermarks.seq",
    ]


def test_each_missing_right_is_told_with_role_table_and_right(limited_url: str) -> None:
    role = role_of(limited_url)
    lines = check_schema(limited_url)
    starts = [line.split(" (")[0].split(",")[0].split(":")[0] for line in lines]
    own = []
    for table in OWN_TABLES:
        own.append(f"role {role} lacks USAGE on schema capsule_reconciler")
        own += [
            f"role {role} lacks {right} on capsule_reconciler.{table}"
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        ]
    assert starts == [
        f"role {role} lacks SELECT on sandboxes",
        f"role {role} lacks UPDATE on sandboxes",
        f"role {role} lacks INSERT on audit_logs",
        *own,
    ]


def test_what_each_line_tells_to_grant_is_enough(limited_url: str) -> None:
    admin = limited_url.replace(role_of(limited_url), "postgres")
    execute(admin, *(line.rpartition(": ")[2] for line in check_schema(limited_url)))
    assert check_schema(limited_url) == []


def test_rights_on_the_columns_alone_are_enough(limited_url: str) -> None:
    role = role_of(limited_url)
    admin = limited_url.replace(role, "postgres")
    changed = "status, host_ip, started_at, last_active_at, last_updated"
    execute(
        admin,
        f"grant usage on schema capsule_reconciler to {role}",
        "grant select, insert, update, delete on all tables"
        f" in schema capsule_reconciler to {role}",
        f"grant insert on audit_logs to {role}",
        f"grant select on sandboxes to {role}",
        f"grant update ({changed}) on sandboxes to {role}",
    )
    assert check_schema(limited_url) == []


def test_a_schema_that_may_not_be_used_is_told_from_a_missing_table(limited_url: str) -> None:
    execute(
        limited_url.replace(role_of(limited_url), "postgres"),
        "revoke usage on schema public from public",
    )
    lines = check_schema(limited_url)
    assert lines[0].startswith(
        f"role {role_of(limited_url)} lacks USAGE on schema public, where sandboxes is"
    )
    assert not any("missing" in line for line in lines)
