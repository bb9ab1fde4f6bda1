"""Dead letters for tests: put into the table directly, and the command run upon them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2.extras
import redis.asyncio

from streams.dead_letters.replay import Resender
from streams.dead_letters.store import LetterStore
from streams.transport import StreamLayout
from tests.command_line import command_line, run_command
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import WorkerProcess

__all__ = [
    "DELIVERY",
    "HOSTILE",
    "KEY",
    "PARTITIONS",
    "SINKS",
    "Sent",
    "StoredLetter",
    "client_of",
    "complaint",
    "dead_letters",
    "dead_letters_line",
    "environment",
    "everything",
    "letter_table",
    "prepare",
    "put",
    "resender",
]

#: Two sinks that take everything.
SINKS = {"CAPSULES_SINKS": json.dumps([{"name": n, "type": "log"} for n in ("audit", "billing")])}
PARTITIONS = 5

_INSERT = """
    insert into capsule_reconciler.dead_letters (
        origin_id, source_id, stage, sink, reason, error, attempts, first_at, last_at, entry_key,
        payload, field_names, field_values, state, resolved_at, replays, history
    ) values %s returning id
"""


@dataclass(frozen=True)
class StoredLetter:
    """A row of the table; its origin is given by the table's order."""

    stage: str = "route"
    sink: str = ""
    reason: str = "bad_entry"
    error: str = "payload: not JSON"
    last_at: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    state: str = "dead"
    key: bytes | None = None
    payload: bytes | None = b"{"
    fields: tuple[tuple[bytes, bytes], ...] = ()
    replays: int = 0


@dataclass(frozen=True)
class Sent:
    """What is in the streams, by the number of the letter that it is a replay of."""

    pipeline: dict[int, list[dict[bytes, bytes]]] = field(default_factory=dict)
    #: With the partition.
    deliveries: dict[int, list[tuple[int, dict[bytes, bytes]]]] = field(default_factory=dict)
    ids: dict[int, list[str]] = field(default_factory=dict)

    @classmethod
    def in_streams(cls, ground: Ground) -> Sent:
        found = cls()
        with ground.redis() as client:
            for entry_id, fields in client.xrange(SOURCE):
                number = int(fields.get(b"replay-of", 0))
                found.pipeline.setdefault(number, []).append(fields)
                found.ids.setdefault(number, []).append(entry_id.decode())
            for key in client.keys(f"{PREFIX}hooks.*"):
                partition = int(key.decode().rpartition(":")[2])
                for entry_id, fields in client.xrange(key):
                    number = int(fields.get(b"h:replay-of", 0))
                    found.deliveries.setdefault(number, []).append((partition, fields))
                    found.ids.setdefault(number, []).append(entry_id.decode())
        return found


def put(ground: Ground, letters: Iterable[StoredLetter]) -> list[int]:
    """Insert `letters` and return their numbers."""
    rows = []
    for number, letter in enumerate(letters, 1):
        resolved_at = letter.last_at if letter.state in ("replayed", "discarded") else None
        origin = f"{number}-7"
        rows.append(
            (
                *(origin, origin, letter.stage, letter.sink, letter.reason, letter.error, 2),
                *(letter.last_at, letter.last_at, letter.key, letter.payload),
                [name for name, _ in letter.fields],
                [value for _, value in letter.fields],
                *(letter.state, resolved_at, letter.replays),
                json.dumps([{"entry_id": origin, "error": letter.error}]),
            )
        )
    template = f"({', '.join(['%s'] * 11)}, %s::bytea[], %s::bytea[], %s, %s, %s, %s)"
    with ground.cursor() as cursor:
        found = psycopg2.extras.execute_values(cursor, _INSERT, rows, template, fetch=True)
    return [number for (number,) in found]


def letter_table(ground: Ground) -> dict[int, dict[str, Any]]:
    """All rows, by number."""
    with ground.cursor() as cursor:
        cursor.execute("select * from capsule_reconciler.dead_letters")
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return {row["id"]: row for row in rows}


def prepare(ground: Ground) -> None:
    """Have Redis as workers leave it: a group that reads the source, and recorded partitions."""
    with ground.redis() as client:
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        for sink in ("audit", "billing"):
            client.hset(f"{PREFIX}topics", f"hooks.{sink}", PARTITIONS)


def dead_letters_line(*arguments: str | int) -> list[str]:
    """Return what starts ``dead-letters`` with `arguments`."""
    return command_line("dead-letters", *map(str, arguments))


def environment(ground: Ground, **settings: str) -> dict[str, str]:
    """The environment of a command on `ground`, with two sinks."""
    return WorkerProcess.environment(**_settings(ground, **settings))


def _settings(ground: Ground, **settings: str) -> dict[str, str]:
    return ground.settings(**(SINKS | {"CAPSULES_LOG_FORMAT": "json"} | settings))


def dead_letters(
    ground: Ground, directory: Path, *arguments: str | int, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run ``dead-letters`` with `arguments`."""
    line = ("dead-letters", *map(str, arguments))
    return run_command(directory, _settings(ground, **settings), *line, columns=80)


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a command which does nothing ends with."""
    assert done.returncode == code, done
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


KEY = bytes(range(16))
DELIVERY = StoredLetter("hook.billing", "billing", "gave_up", key=KEY, payload=b'{"to":"billing"}')
HOSTILE = "\x1b]0;owned\x07\x9b2J \u202e[red]x[/red]\r\n"


def resender(client: redis.asyncio.Redis, store: LetterStore) -> Resender:
    return Resender(client, store, source=SOURCE, group=GROUP, layout=StreamLayout(PREFIX))


def client_of(ground: Ground) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(ground.redis_url)


def everything(ground: Ground) -> Any:
    """All that is in the table and in Redis."""
    with ground.redis() as client:
        return letter_table(ground), {key: client.dump(key) for key in client.scan_iter()}
