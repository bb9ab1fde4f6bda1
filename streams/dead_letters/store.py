"""The table of dead letters, as commands and housekeeping read and change it.

What stores letters is ``agents/sql/dead_letters.sql``. The states::

    dead ──────> replaying ──────> replayed ──> (removed after a while)
     │  claim               sent      │
     │ <──────────────────────────────┘ the replay died as well
     └─────────> discarded ──────────────────> (removed after a while)

A payload is read one letter at a time, so that memory holds one of them. Whatever a letter says
was written by strangers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 psycopg2 spells its classes so
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from config.settings import Settings
from streams.dead_letters.letters import (
    Filter,
    Letter,
    Order,
    State,
    check_discardable,
    check_replayable,
)
from streams.errors import DatabaseUnavailableError

__all__ = ["LetterStore"]

_PAGE: Final = 500
_SUMMARY: Final = """
    id, origin_id, source_id, stage, sink, reason, error, attempts, first_at, last_at, state,
    replays, replayed_as, resolved_at, octet_length(payload)
"""
_FROM: Final = """
    from capsule_reconciler.dead_letters
    where (%(stage)s::text is null or stage = %(stage)s)
      and (%(sink)s::text is null or sink = %(sink)s)
      and (%(reason)s::text is null or reason = %(reason)s)
      and (%(since)s::timestamptz is null or last_at >= %(since)s)
      and state = any(%(states)s)
      and id <= %(up_to)s
"""
_CONTENT: Final = """
    select id, replays, origin_id, sink, entry_key, payload, field_names, field_values
    from capsule_reconciler.dead_letters
"""
_CLAIM: Final = """
    update capsule_reconciler.dead_letters
    set state = 'replaying', replays = replays + 1
    where id = any(%(ids)s) and state = 'dead'
"""
_SENT: Final = """
    update capsule_reconciler.dead_letters
    set state = 'replayed', replayed_as = %(entry_id)s, resolved_at = now()
    where id = %(id)s and state = 'replaying'
"""
_DISCARD: Final = """
    update capsule_reconciler.dead_letters
    set state = 'discarded', resolved_at = now()
    where id = any(%(ids)s) and state = 'dead'
"""
_LAST_ID: Final = 2**63 - 1


class LetterStore:
    """The table, over a connection of its own. Every method raises DatabaseUnavailableError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings) -> Iterator[LetterStore]:
        """Give the table of the database in `settings`; raises DatabaseUnavailableError."""
        # A command that is frozen while it has a row locked must not stop the worker for long.
        options = (
            f"-c statement_timeout={settings.statement_timeout_ms}"
            f" -c lock_timeout={settings.lock_timeout_ms}"
            " -c idle_in_transaction_session_timeout=10000"
        )
        with _database_errors():
            connection = psycopg2.connect(
                settings.database_url,
                connect_timeout=max(int(settings.postgres_connect_timeout_s), 2),
                application_name="capsule-reconciler dead-letters",
                options=options,
                keepalives_idle=10,
                keepalives_interval=3,
                keepalives_count=3,
                tcp_user_timeout=settings.statement_timeout_ms + 2_000,
            )
        with closing(connection):
            yield cls(connection)

    def knows(self, column: str, word: str) -> bool:
        """Whether some letter has `word` as its stage, sink or reason."""
        statements = {
            name: f"select 1 from capsule_reconciler.dead_letters where {name} = %(word)s limit 1"  # noqa: S608
            for name in ("stage", "sink", "reason")
        }
        return bool(self._select(statements[column], {"word": word}))

    def count(self, wanted: Filter, *, up_to: int = _LAST_ID) -> int:
        """Return how many letters are meant, of those with an id of at most `up_to`."""
        [(count,)] = self._select(f"select count(*) {_FROM}", _parameters(wanted, up_to))
        return int(count)

    def last_id(self) -> int:
        """Return the highest id so far, 0 if there is none."""
        [(last,)] = self._select("select max(id) from capsule_reconciler.dead_letters", {})
        return int(last or 0)

    def sinks(self, wanted: Filter, *, up_to: int = _LAST_ID) -> set[str]:
        """Return whose deliveries the letters meant are."""
        rows = self._select(f"select distinct sink {_FROM}", _parameters(wanted, up_to))
        return {sink for (sink,) in rows}

    def newest(self, wanted: Filter, limit: int) -> list[Letter]:
        """Return the letters meant, the newest first."""
        return self._letters(
            f"select {_SUMMARY} {_FROM} order by id desc limit %(limit)s",
            _parameters(wanted) | {"limit": limit},
        )

    def oldest_first(self, wanted: Filter, *, up_to: int = _LAST_ID) -> Iterator[Letter]:
        """Give the letters meant, each at most once, page after page."""
        after = 0
        while True:
            page = self._letters(
                f"select {_SUMMARY} {_FROM} and id > %(after)s order by id limit %(limit)s",
                _parameters(wanted, up_to) | {"after": after, "limit": _PAGE},
            )
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].id

    def find(self, ids: Iterable[int]) -> list[Letter]:
        """Return the letters of `ids`, in the order of their ids, without those that are not."""
        return self._letters(
            f"select {_SUMMARY} from capsule_reconciler.dead_letters"  # noqa: S608
            " where id = any(%(ids)s) order by id",
            {"ids": list(ids)},
        )

    def open_of_sink(self, sink: str, origin_ids: Iterable[str]) -> dict[str, Letter]:
        """Return, by their origin, the deliveries to `sink` that are dead or being replayed."""
        found = self._letters(
            f"select {_SUMMARY} from capsule_reconciler.dead_letters"  # noqa: S608
            " where sink = %(sink)s and origin_id = any(%(ids)s)"
            " and state in ('dead', 'replaying') order by id",
            {"sink": sink, "ids": list(origin_ids)},
        )
        return {letter.origin_id: letter for letter in found}

    def replayed_of_sink(self, sink: str) -> list[int]:
        """Return the letters of `sink` that were replayed, and are not just being."""
        rows = self._select(
            "select id from capsule_reconciler.dead_letters"
            " where sink = %(sink)s and replays > 0 and state <> 'replaying'",
            {"sink": sink},
        )
        return [letter_id for (letter_id,) in rows]

    def died_in_the_pipeline(self, source_ids: list[str]) -> set[str]:
        """Return those of `source_ids` that are letters of no sink, whatever became of these."""
        rows = self._select(
            "select unnest(array[origin_id, source_id]) from capsule_reconciler.dead_letters"
            " where sink = '' and (origin_id = any(%(ids)s) or source_id = any(%(ids)s))",
            {"ids": source_ids},
        )
        return {source_id for (source_id,) in rows} & {*source_ids}

    def history(self, letter_id: int) -> list[dict[str, Any]]:
        """Return each death of the letter, oldest first."""
        rows = self._select(
            "select history from capsule_reconciler.dead_letters where id = %(id)s",
            {"id": letter_id},
        )
        return list(rows[0][0]) if rows else []

    def content(self, letter_id: int) -> Order | None:
        """Return what a replay of the letter would send; None: there is no such letter."""
        rows = self._select(f"{_CONTENT} where id = %(id)s", {"id": letter_id})
        return _order(rows[0]) if rows else None

    def claim(self, ids: Sequence[int], sinks: Iterable[str]) -> None:
        """Order `ids` to be replayed: all of them, or none.

        Raises:
            WrongLettersError: one does not exist, or is neither dead nor being replayed, or is a
                delivery of none of `sinks`.
        """
        with _database_errors(), self._connection, self._connection.cursor() as cursor:
            found = _locked(cursor, ids)
            check_replayable(ids, found, sinks)
            cursor.execute(_CLAIM, {"ids": list(ids)})

    def claim_one(self, letter: Letter) -> bool:
        """Order `letter` to be replayed; False: by now it is not what it was."""
        return bool(
            self._select(
                f"{_CLAIM} and replays = %(replays)s returning 1",
                {"ids": [letter.id], "replays": letter.replays},
            )
        )

    def discard(self, ids: Sequence[int]) -> None:
        """Decide that nothing is to come of `ids`: all of them, or none.

        Raises:
            WrongLettersError: one does not exist or is not dead.
        """
        with _database_errors(), self._connection, self._connection.cursor() as cursor:
            check_discardable(ids, _locked(cursor, ids))
            cursor.execute(_DISCARD, {"ids": list(ids)})

    def discard_dead(self, letters: Sequence[Letter]) -> list[int]:
        """Discard those of `letters` that are what they were; return their ids in order."""
        rows = self._select(
            f"{_DISCARD} and (id, replays) in ("  # noqa: S608
            "select * from unnest(%(ids)s::bigint[], %(replays)s::integer[])) returning id",
            {"ids": [found.id for found in letters], "replays": [x.replays for x in letters]},
        )
        return sorted(letter_id for (letter_id,) in rows)

    async def send(self, letter_id: int, send: Callable[[Order], Awaitable[str]]) -> str | None:
        """Have `send` carry out the order for a letter that is being replayed, and note it.

        Meanwhile nobody else can. Returns the id of the entry that it was sent as; None: by now
        somebody else has done it. What `send` raises leaves the letter as it was.
        """
        with _database_errors(), self._connection, self._connection.cursor() as cursor:
            cursor.execute(
                f"{_CONTENT} where id = %(id)s and state = 'replaying' for update",
                {"id": letter_id},
            )
            row = cursor.fetchone()
            if row is None:
                return None
            entry_id = await send(_order(row))
            cursor.execute(_SENT, {"id": letter_id, "entry_id": entry_id})
            return entry_id

    def _letters(self, statement: str, parameters: dict[str, Any]) -> list[Letter]:
        return [_letter(row) for row in self._select(statement, parameters)]

    def _select(self, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        with _database_errors(), self._connection, self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()


def _locked(cursor: Cursor, ids: Iterable[int]) -> list[Letter]:
    cursor.execute(
        f"select {_SUMMARY} from capsule_reconciler.dead_letters"  # noqa: S608
        " where id = any(%(ids)s) order by id for update",
        {"ids": list(ids)},
    )
    return [_letter(row) for row in cursor.fetchall()]


def _letter(row: tuple[Any, ...]) -> Letter:
    columns: list[Any] = list(row)
    columns[10] = State(columns[10])
    return Letter(*columns)


def _order(row: tuple[Any, ...]) -> Order:
    letter_id, replays, origin_id, sink, key, payload, names, values = row
    pairs = zip(map(bytes, names), map(bytes, values), strict=True)
    return Order(letter_id, replays, origin_id, sink, _bytes(key), _bytes(payload), tuple(pairs))


def _bytes(value: memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)


def _parameters(wanted: Filter, up_to: int = _LAST_ID) -> dict[str, Any]:
    return {
        "stage": wanted.stage,
        "sink": wanted.sink,
        "reason": wanted.reason,
        "since": wanted.since,
        "states": [state.value for state in wanted.states],
        "up_to": up_to,
    }


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except psycopg2.Error as exc:
        text = str(exc).strip() or type(exc).__name__
        # The first line says what it is; the rest may quote values.
        raise DatabaseUnavailableError(text.partition("\n")[0]) from exc
