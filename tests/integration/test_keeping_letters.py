"""Each death is one line in one letter's history, however often it is told."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg2
import pytest
from faust.types import TP

from streams.dead_letters.record import DeadLetter, rows
from streams.outcomes import Dead, Reason
from streams.postgres import Postgres
from streams.transport import Entry
from tests.reconciliation import Ground

SQL = resources.files("agents.sql").joinpath("dead_letters.sql").read_text(encoding="utf-8")


@dataclass
class Table:
    """The table of letters, and the statement that writes it."""

    postgres: Postgres
    ground: Ground

    async def keep(self, *letters: DeadLetter) -> tuple[Any, ...]:
        return await self.postgres.fetch_row(SQL, {"letters": rows(letters)})

    def all(self) -> list[dict[str, Any]]:
        with self.ground.cursor() as cursor:
            cursor.execute("select * from capsule_reconciler.dead_letters order by id")
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def set(self, letter: int, **values: Any) -> None:
        with self.ground.cursor() as cursor:
            for name, value in values.items():
                cursor.execute(
                    f"update capsule_reconciler.dead_letters set {name} = %s where id = %s",  # noqa: S608
                    (value, letter),
                )


@pytest.fixture
def table(postgres: Postgres, ground: Ground) -> Table:
    return Table(postgres, ground)


def bad(
    source_id: str, payload: bytes = b"{", *, replay_of: bytes | None = None, error: str = "bad"
) -> DeadLetter:
    fields = {b"payload": payload, b"trace": b"\0\xff"}
    if replay_of is not None:
        fields[b"replay-of"] = replay_of
    entry = Entry(TP("wrenn:events", 0), source_id.encode(), fields, 1)
    return DeadLetter.of_source(entry, "route", Dead(Reason.BAD_ENTRY, error, attempts=2))


def refused(entry_id: str, source_id: str, *, replay_of: bytes | None = None) -> DeadLetter:
    fields = {b"k": b"capsule", b"v": b"{}", b"h:source-id": source_id.encode()}
    if replay_of is not None:
        fields[b"h:replay-of"] = replay_of
    entry = Entry(TP("hooks.billing", 0), entry_id.encode(), fields, 1)
    why = Dead(Reason.REFUSED_BY_SINK, "HTTP 410", attempts=3, first_at_s=1.5)
    return DeadLetter.of_delivery(entry, "hook.billing", "billing", why)


async def test_a_letter_is_kept_whole(table: Table) -> None:
    assert await table.keep(bad("5-1", b"\xff\0{"), refused("90-0", "5-1")) == (0, 2)
    first, second = table.all()
    assert first["origin_id"] == first["source_id"] == "5-1"
    assert (first["stage"], first["sink"], first["reason"]) == ("route", "", "bad_entry")
    assert (first["state"], first["attempts"], first["error"]) == ("dead", 2, "bad")
    assert bytes(first["payload"]) == b"\xff\0{"
    assert [bytes(name) for name in first["field_names"]] == [b"trace"]
    assert [bytes(value) for value in first["field_values"]] == [b"\0\xff"]
    assert (second["sink"], bytes(second["entry_key"])) == ("billing", b"capsule")
    assert second["first_at"].timestamp() == 1.5
    assert [death["entry_id"] for death in second["history"]] == ["90-0"]


async def test_a_death_that_is_told_again_changes_nothing(table: Table) -> None:
    letters = [bad("5-1"), refused("90-0", "5-1")]
    await table.keep(*letters)
    before = table.all()
    assert await table.keep(*letters) == (0, 0)
    assert table.all() == before


async def test_the_same_id_with_another_payload_is_another_letter(table: Table) -> None:
    await table.keep(bad("5-1", b"one"))
    await table.keep(bad("5-1", b"two"))
    assert [bytes(letter["payload"]) for letter in table.all()] == [b"one", b"two"]


@pytest.mark.parametrize("seen", ["replaying", "replayed"])
async def test_a_replay_that_dies_again_is_the_same_letter_with_its_history(
    table: Table, seen: str
) -> None:
    await table.keep(bad("5-1"))
    letter = table.all()[0]["id"]
    table.set(letter, state=seen, replays=1, replayed_as="8-0" if seen == "replayed" else None)
    again = bad("8-0", replay_of=str(letter).encode(), error="still bad")
    assert await table.keep(again) == (1, 0)
    (found,) = table.all()
    assert (found["origin_id"], found["source_id"]) == ("5-1", "8-0")
    assert (found["state"], found["error"], found["resolved_at"]) == ("dead", "still bad", None)
    assert (found["attempts"], found["replays"]) == (4, 1)
    assert [death["error"] for death in found["history"]] == ["bad", "still bad"]

    assert await table.keep(again) == (0, 0)
    assert table.all() == [found]
    # Told once more, after the next replay has been sent already.
    table.set(letter, state="replayed", replays=2, replayed_as="9-0")
    assert await table.keep(again) == (0, 0)
    assert table.all()[0]["state"] == "replayed"


async def test_a_delivery_that_dies_again_is_the_same_letter(table: Table) -> None:
    await table.keep(refused("90-0", "5-1"))
    letter = table.all()[0]["id"]
    table.set(letter, state="replayed", replays=1, replayed_as="95-0")
    await table.keep(refused("95-0", "5-1", replay_of=str(letter).encode()))
    (found,) = table.all()
    assert (found["state"], found["attempts"]) == ("dead", 6)
    assert [death["entry_id"] for death in found["history"]] == ["90-0", "95-0"]


async def test_a_death_whose_replay_is_not_known_by_name_is_not_passed_over(table: Table) -> None:
    """The entry was moved to another partition, and has another id now."""
    await table.keep(refused("90-0", "5-1"))
    letter = table.all()[0]["id"]
    table.set(letter, state="replayed", replays=1, replayed_as="95-0")
    await table.keep(refused("97-3", "5-1", replay_of=str(letter).encode()))
    (found,) = table.all()
    assert (found["state"], len(found["history"])) == ("dead", 2)


async def test_an_entry_that_names_a_letter_it_is_no_replay_of_is_a_letter_of_its_own(
    table: Table,
) -> None:
    await table.keep(bad("5-1"))
    before = table.all()[0]
    await table.keep(bad("8-0", b"forged", replay_of=str(before["id"]).encode()))
    await table.keep(bad("9-0", b"forged", replay_of=b"123456"))
    found = table.all()
    assert found[0] == before
    assert [letter["origin_id"] for letter in found] == ["5-1", "8-0", "9-0"]


async def test_a_letter_cannot_be_written_by_what_it_holds(table: Table) -> None:
    hostile = b"'); drop table sandboxes; --\\0 \x00 $1 %(letters)s"
    await table.keep(bad("5-1", hostile, error="'; drop table audit_logs; -- %s"))
    (found,) = table.all()
    assert bytes(found["payload"]) == hostile
    with table.ground.cursor() as cursor:
        cursor.execute("select count(*) from sandboxes, audit_logs")


async def test_a_replay_is_told_by_its_sink_too(table: Table) -> None:
    await table.keep(bad("5-1"))
    letter = table.all()[0]["id"]
    table.set(letter, state="replaying")
    await table.keep(refused("90-0", "5-1", replay_of=str(letter).encode()))
    assert [found["sink"] for found in table.all()] == ["", "billing"]
    assert table.all()[0]["state"] == "replaying"


def test_the_table_refuses_states_that_nobody_knows(database_url: str) -> None:
    with (
        pytest.raises(psycopg2.errors.CheckViolation),
        Ground("", database_url).cursor() as cursor,
    ):
        cursor.execute(
            "insert into capsule_reconciler.dead_letters (origin_id, source_id, stage, reason,"
            " error, attempts, first_at, last_at, state)"
            " values ('1-1', '1-1', 'route', 'x', 'x', 1, now(), now(), 'gone')"
        )
