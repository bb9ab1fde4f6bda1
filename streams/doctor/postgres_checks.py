"""Does Postgres let us write, and is there room for all workers?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from config.settings import Settings
from streams.doctor.finding import Finding, fail, ok, warn
from streams.doctor.postgres_facts import PostgresFacts

__all__ = ["POSTGRES_CHECKS"]

_OLDEST: Final = 140_000


def _version(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    seen = f"Postgres {facts.version // 10_000}.{facts.version % 10_000}"
    if facts.version < _OLDEST:
        return fail(seen, "needs Postgres 14 or newer: update it")
    return ok(seen)


def _primary(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    if facts.is_replica:
        return fail(
            "a replica, which cannot be written to",
            "point DATABASE_URL at the primary, or add target_session_attrs=read-write",
        )
    return ok("a primary")


def _read_only(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    if facts.config.get("default_transaction_read_only") == "on":
        return fail(
            "default_transaction_read_only is on: nothing can be written",
            "set it to off for this role and database (alter role ... set, alter database ... set)",
        )
    return ok("transactions may write")


def _durable(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    off = [name for name in ("fsync", "synchronous_commit") if facts.config.get(name) == "off"]
    if off:
        return warn(
            f"{' and '.join(off)} off: a crash may undo what was acknowledged",
            "set it to on, at least for this role",
        )
    return ok("commits are durable")


def _schema(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    if facts.schema_mistakes:
        first, *others = facts.schema_mistakes
        what, _, advice = first.partition(": ")
        more = f", and {len(others)} more" if others else ""
        return fail(f"{what}{more}", advice or "run `faust -A streams.app migrate`")
    return ok("tables, columns and rights are as they must be")


def _connections(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    # One worker at least: there will be one.
    needed = settings.postgres_pool_size * max(workers, 1)
    room = facts.connections_max - facts.connections_of_others
    seen = (
        f"{needed} for {max(workers, 1)} workers of {settings.postgres_pool_size};"
        f" {facts.connections_max} allowed, {facts.connections_of_others} are others'"
    )
    advice = "raise max_connections or the role's limit, or lower CAPSULES_POSTGRES_POOL_SIZE"
    if needed > room:
        return fail(seen, advice)
    # While a deployment replaces workers there are more of them.
    return warn(seen, advice) if 2 * needed > room else ok(seen)


def _index(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    if not facts.is_sandboxes_indexed:
        return fail(
            "sandboxes has no index on id: each batch reads the whole table",
            "have its owner make id the primary key",
        )
    return ok("sandboxes has an index on id")


def _timeouts(facts: PostgresFacts, settings: Settings, workers: int) -> Finding:
    statement_s, lock_s = settings.statement_timeout_ms / 1000, settings.lock_timeout_ms / 1000
    seen = f"statement {statement_s:g} s, lock {lock_s:g} s, lease {settings.lease_s:g} s"
    if lock_s >= statement_s:
        return warn(seen, "CAPSULES_LOCK_TIMEOUT_MS should be less than the statement's")
    if statement_s > settings.drain_timeout_s:
        return warn(
            seen, "a worker that stops may not finish its statements: a longer DRAIN_TIMEOUT_S"
        )
    if settings.redis_timeout_s >= settings.lease_s:
        return warn(
            f"{seen}, Redis {settings.redis_timeout_s:g} s",
            "one slow answer of Redis costs the lease: CAPSULES_REDIS_TIMEOUT_S below it",
        )
    return ok(seen)


POSTGRES_CHECKS: Final[Mapping[str, Callable[[PostgresFacts, Settings, int], Finding]]] = {
    "postgres.version": _version,
    "postgres.primary": _primary,
    "postgres.read-only": _read_only,
    "postgres.durable": _durable,
    "postgres.schema": _schema,
    "postgres.connections": _connections,
    "postgres.index": _index,
    "postgres.timeouts": _timeouts,
}
