"""Statements that the server parses and plans once for each connection, and not for each batch.

psycopg2 sends texts, so this is SQL's own ``PREPARE`` and ``EXECUTE``. The plan does not depend
on the size of a batch (``plan_cache_mode=force_generic_plan``): each row is found by its key,
however few or many there are. It was made from what the server knew of the tables at the time,
and is thrown away now and then, since a table that was empty then may be large now.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg2.errors
import structlog

__all__ = ["PARAMETER", "PreparedStatements"]

log = structlog.get_logger(__name__)

#: How long a plan is used.
_PLAN_FOR_S: Final = 60.0
#: A parameter of a statement, as psycopg2 writes it.
PARAMETER: Final = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True, slots=True)
class _Texts:
    name: str
    prepare: str
    execute: str


@lru_cache
def _texts_of(statement: str) -> _Texts:
    names = list(dict.fromkeys(PARAMETER.findall(statement)))
    numbered = PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", statement)
    name = f"capsules_{hashlib.sha256(statement.encode()).hexdigest()[:16]}"
    arguments = ", ".join(f"%({parameter})s" for parameter in names)
    return _Texts(name, f"prepare {name} as {numbered}", f"execute {name} ({arguments})")


class PreparedStatements:
    """What each connection has prepared."""

    def __init__(self) -> None:
        #: When the plans of a connection's statements were made, by the statement's name.
        self._planned_at: WeakKeyDictionary[Any, dict[str, float]] = WeakKeyDictionary()
        #: Until a server does not know what was prepared: a pooler stands between, which gives
        #: each transaction a connection of its choice.
        self._enabled = True

    async def sql(self, cursor: Any, statement: str) -> str:
        """Return what runs `statement` over the connection of `cursor`, with the same parameters.

        They must have the types that `statement` casts them to: an array is a text such as
        ``{1,2}``.
        """
        if not self._enabled:
            return statement
        texts = _texts_of(statement)
        planned_at = self._planned_at.setdefault(cursor.connection, {})
        now = monotonic()
        if texts.name not in planned_at:
            with contextlib.suppress(psycopg2.errors.DuplicatePreparedStatement):
                await cursor.execute(texts.prepare)
            planned_at[texts.name] = now
        elif now - planned_at[texts.name] > _PLAN_FOR_S:
            planned_at.update(dict.fromkeys(planned_at, now))
            return f"discard plans; {texts.execute}"
        return texts.execute

    def note(self, exc: Exception) -> None:
        """Look whether a statement has failed because it is not prepared after all."""
        if self._enabled and isinstance(exc, psycopg2.errors.InvalidSqlStatementName):
            self._enabled = False
            log.warning(
                "statements are not prepared any more: something between here and the server"
                " shares its connections",
                action="not_prepared",
            )
