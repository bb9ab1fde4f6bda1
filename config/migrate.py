"""The reconciler's own schema in Postgres, and whether the tables it needs are as it needs them.

A runner of our own, as small as what is asked of it: yoyo keeps its lock as a row, which a killed
migration leaves behind for somebody to break by hand, and needs the schema to exist before it can
keep its tables there. An advisory lock goes with its connection.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 psycopg2 spells its classes so
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from config.urls import mask_text

SCHEMA: Final = "capsule_reconciler"
_DIRECTORY: Final = Path(__file__).parent / "migrations"
_CONNECT_TIMEOUT_S: Final = 5
_LOCK_TIMEOUT: Final = "30s"
# "capsules" in ASCII: any number does that nobody else locks.
_ADVISORY_LOCK: Final = int.from_bytes(b"capsules", "big")
_MIGRATE_HINT: Final = "run `faust -A streams.app migrate`"


class MigrationError(Exception):
    """The database cannot be reached or brought up to date; one line says why."""


@dataclass(frozen=True, slots=True)
class _Need:
    """A table, and for each right the columns on which it is needed; none: the whole table."""

    schema: str | None  # None: wherever the search path finds it
    table: str
    rights: dict[str, tuple[str, ...]]
    hint: str

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for columns in self.rights.values() for column in columns))


_CHANGED: Final = ("status", "host_ip", "started_at", "last_active_at", "last_updated")
_AUDIT: Final = (
    *("id", "team_id", "actor_type", "resource_type", "resource_id"),
    *("action", "scope", "status", "metadata", "created_at"),
)
_MARK: Final = ("capsule_id", "ms", "seq", "updated_at")
_LETTER: Final = (
    *("id", "origin_id", "source_id", "stage", "sink", "reason", "error", "attempts"),
    *("first_at", "last_at", "entry_key", "payload", "field_names", "field_values"),
    *("state", "replays", "replayed_as", "resolved_at", "history"),
)
_GAP: Final = (
    *("id", "app_id", "stream", "kind", "after_id", "before_id", "entries"),
    *("account", "prior", "total", "worker", "noticed_at", "closed_at", "note"),
)
_POSITION: Final = (
    *("app_id", "stream", "epoch", "entry_id", "accounted", "last_id", "entries_added"),
    "updated_at",
)
_CONTROL_PLANE_HINT: Final = "is DATABASE_URL the control plane's database?"


def _own(table: str, columns: tuple[str, ...]) -> _Need:
    """A table of our own, on which everything is done."""
    rights = dict.fromkeys(("SELECT", "INSERT", "UPDATE"), columns) | {"DELETE": ()}
    return _Need(SCHEMA, table, rights, _MIGRATE_HINT)


_NEEDS: Final = (
    _Need(
        None,
        "sandboxes",
        {"SELECT": ("id", "team_id", *_CHANGED), "UPDATE": _CHANGED},
        _CONTROL_PLANE_HINT,
    ),
    _Need(None, "audit_logs", {"INSERT": _AUDIT}, _CONTROL_PLANE_HINT),
    _own("watermarks", _MARK),
    _own("dead_letters", _LETTER),
    _own("gaps", _GAP),
    _own("gap_entries", ("app_id", "stream", "kind", "entry_id", "account")),
    _own("positions", _POSITION),
)


def migrate(database_url: str, *, dev: bool) -> list[str]:
    """Apply what is missing of the reconciler's schema and return the names, in order.

    With `dev` also the control plane's two tables, if they are not there. All in one transaction
    under an advisory lock: it is done whole or not at all, and of two at once the second finds
    nothing to do. Raises MigrationError.
    """
    with _connected(database_url, "migrate") as connection, connection.cursor() as cursor:
        cursor.execute("select set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        cursor.execute("select pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
        applied = _applied(cursor)
        names = [name for name in _migrations(dev=dev) if not _is_applied(name, applied)]
        for name in names:
            try:
                cursor.execute(_read(name))
            except psycopg2.Error as error:
                raise MigrationError(f"migrate: {name}: {_reason(error)}") from error
            cursor.execute(
                f"insert into {SCHEMA}.schema_migrations (name, checksum) values (%s, %s)",  # noqa: S608
                (name, _checksum(name)),
            )
    return names


def check_schema(database_url: str) -> list[str]:
    """Return what the reconciler misses in this database, one line each; empty if nothing.

    Tables, columns and the rights of the role it connects as. Raises MigrationError if the
    database cannot be asked.
    """
    with _connected(database_url, "check") as connection, connection.cursor() as cursor:
        cursor.execute("select current_user, current_database()")
        role, database = cursor.fetchone() or ("", "")
        cursor.execute("select 1 from pg_namespace where nspname = %s", (SCHEMA,))
        has_schema = cursor.fetchone() is not None
        needs = [need for need in _NEEDS if has_schema or need.schema != SCHEMA]
        lines = [line for need in needs for line in _check(cursor, need, role, database)]
        if not has_schema:
            lines.append(f"schema {SCHEMA} is missing in database {database}: {_MIGRATE_HINT}")
        return lines


@contextlib.contextmanager
def _connected(database_url: str, purpose: str) -> Iterator[Connection]:
    """Give a connection in a transaction that is committed, or rolled back by an exception."""
    try:
        connection = psycopg2.connect(
            database_url,
            connect_timeout=_CONNECT_TIMEOUT_S,
            application_name=f"capsule-reconciler {purpose}",
        )
        with contextlib.closing(connection), connection:
            yield connection
    except psycopg2.Error as error:
        raise MigrationError(f"{purpose}: {_reason(error)}") from error


def _reason(error: psycopg2.Error) -> str:
    return mask_text((str(error).strip() or type(error).__name__).splitlines()[0])


def _migrations(*, dev: bool) -> list[str]:
    patterns = ("*.sql", "dev/*.sql") if dev else ("*.sql",)
    return [
        path.relative_to(_DIRECTORY).as_posix()
        for pattern in patterns
        for path in sorted(_DIRECTORY.glob(pattern))
    ]


def _read(name: str) -> str:
    return (_DIRECTORY / name).read_text(encoding="utf-8")


def _checksum(name: str) -> str:
    return hashlib.sha256(_read(name).encode()).hexdigest()


def _applied(cursor: Cursor) -> dict[str, str]:
    """Return the checksums of what was applied by name; make the schema the first time."""
    # Asked first: "if not exists" needs the right to create even where there is nothing to do.
    cursor.execute("select to_regclass(%s)", (f"{SCHEMA}.schema_migrations",))
    if cursor.fetchone() == (None,):
        cursor.execute("select 1 from pg_namespace where nspname = %s", (SCHEMA,))
        if cursor.fetchone() is None:
            cursor.execute(f"create schema {SCHEMA}")
        cursor.execute(
            f"create table {SCHEMA}.schema_migrations (name text primary key, "
            "checksum text not null, applied_at timestamptz not null default now())"
        )
    cursor.execute(f"select name, checksum from {SCHEMA}.schema_migrations")  # noqa: S608
    return dict(cursor.fetchall())


def _is_applied(name: str, applied: dict[str, str]) -> bool:
    if name in applied and applied[name] != _checksum(name):
        raise MigrationError(
            f"migrate: {name} was changed after it had been applied: undo that, and put the "
            "change into a migration of its own"
        )
    return name in applied


def _check(cursor: Cursor, need: _Need, role: str, database: str) -> Iterator[str]:
    cursor.execute(_FIND_TABLE, {"table": need.table, "schema": need.schema})
    found = cursor.fetchone()
    if found is None:
        yield f"table {need.name} is missing in database {database}: {need.hint}"
        return
    oid, schema, has_usage = found
    if not has_usage:
        yield (
            f"role {role} lacks USAGE on schema {schema}, where {need.table} is: "
            f"grant usage on schema {schema} to {role}"
        )
    cursor.execute(
        "select attname from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped",
        (oid,),
    )
    present = {name for (name,) in cursor.fetchall()}
    for column in need.columns:
        if column not in present:
            yield f"column {need.name}.{column} is missing in database {database}: {need.hint}"
    for right, columns in need.rights.items():
        if not columns:
            yield from _check_whole(cursor, need, role, oid, right)
            continue
        cursor.execute(
            "select name from unnest(%s::text[]) as name "
            "where not has_column_privilege(%s, name, %s)",
            ([column for column in columns if column in present], oid, right),
        )
        lacking = [name for (name,) in cursor.fetchall()]
        if lacking:
            yield (
                f"role {role} lacks {right} on {need.name} ({', '.join(lacking)}): "
                f"grant {right.lower()} on {need.name} to {role}"
            )


def _check_whole(cursor: Cursor, need: _Need, role: str, oid: int, right: str) -> Iterator[str]:
    """A right that is of the table and not of its columns."""
    cursor.execute("select has_table_privilege(%s, %s)", (oid, right))
    if cursor.fetchone() == (False,):
        yield (
            f"role {role} lacks {right} on {need.name}: "
            f"grant {right.lower()} on {need.name} to {role}"
        )


# From the catalogue, which also shows what the role may not use; the search path itself leaves
# out schemas without USAGE, and the table would look missing.
_FIND_TABLE: Final = """
    with path as (
        select case trim(both ' "' from item) when '$user' then current_user::text
                    else trim(both ' "' from item) end as schema, place
        from regexp_split_to_table(current_setting('search_path'), ',')
             with ordinality as parts (item, place)
    )
    select c.oid, n.nspname, has_schema_privilege(n.oid, 'USAGE')
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    left join path on path.schema = n.nspname
    where c.relname = %(table)s and c.relkind in ('r', 'p', 'v', 'f')
      and case when %(schema)s::text is null then path.schema is not null
               else n.nspname = %(schema)s end
    order by path.place
    limit 1
"""
