"""`topology` shows what really flows: its edges are those seen from outside, and no other."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.command_line import run_command
from tests.event_log import generate
from tests.oracle import replay
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

#: What the worker keeps for itself; no event ends there.
BOOKKEEPING = {"gaps", "gap_entries", "positions", "schema_migrations"}
#: The only parts of the picture that pass through no server.
LANES = {"create", "resume", "pause", "destroy", "failure"}
EDGE = tuple[str, str]


def topic_of(key: str) -> str:
    """The topic behind a key of the app."""
    return SOURCE if key == SOURCE else key.removeprefix(PREFIX).rpartition(":")[0]


class Traffic:
    """What Redis is told, by MONITOR: entries read, and entries written with what is in them."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        #: By topic: the first fields of each entry.
        self.written: dict[str, list[str]] = {}

    @contextmanager
    def watched(self, url: str) -> Iterator[None]:
        address = urlsplit(url)
        # Not over redis-py, which cannot read what is no text.
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(b"MONITOR\r\n")
            lines = connection.makefile("rb")
            assert lines.readline() == b"+OK\r\n"
            thread = threading.Thread(target=lambda: list(map(self._take, lines)))
            thread.start()
            try:
                yield
            finally:
                connection.shutdown(socket.SHUT_RD)
                thread.join(10)

    def _take(self, line: bytes) -> None:
        words = re.findall(r'"((?:[^"\\]|\\.)*)"', line.decode("ascii", "replace"))
        if not words:
            return
        name = words[0].upper()
        if name == "XREADGROUP":
            keys = words[[word.upper() for word in words].index("STREAMS") + 1 :]
            self.read |= {topic_of(key) for key in keys[: len(keys) // 2]}
        elif name == "XADD" and words[1].startswith(PREFIX):
            self.written.setdefault(topic_of(words[1]), []).append(" ".join(words))


class Writers:
    """What Postgres is told: which statement of which stage changed which table.

    A trigger notes, for each row, the table and the statement that wrote it.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        with ground.cursor() as cursor:
            cursor.execute("create schema seen")
            cursor.execute("create table seen.writes (name text, query text)")
            cursor.execute(
                "create function seen.note() returns trigger language plpgsql as $$ begin"
                " insert into seen.writes values"
                " (case tg_table_schema when 'public' then '' else tg_table_schema || '.' end"
                "  || tg_table_name, current_query()); return null; end $$"
            )
            cursor.execute(
                "select format('%I.%I', schemaname, tablename) from pg_tables"
                " where schemaname in ('public', 'capsule_reconciler')"
            )
            for (name,) in cursor.fetchall():
                cursor.execute(
                    f"create trigger seen after insert or update or delete on {name}"
                    " for each row execute function seen.note()"
                )

    def tables(self) -> dict[str, set[str]]:
        """The distinct statements by table."""
        found: dict[str, set[str]] = {}
        with self._ground.cursor() as cursor:
            cursor.execute("select name, query from seen.writes")
            for name, query in cursor.fetchall():
                if name.rpartition(".")[2] not in BOOKKEEPING:
                    found.setdefault(name, set()).add(query)
        return found


async def test_the_edges_are_those_of_the_traffic(ground: Ground, tmp_path: Path) -> None:
    """A known log through one worker with two sinks, one of which refuses some deliveries."""
    log = generate(77, events=800, capsules=60)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    writers = Writers(ground)
    traffic = Traffic()
    async with Receiver() as first, Receiver() as second:
        sinks = [
            json.loads(receiver.settings()["CAPSULES_SINKS"])[0] | {"name": name}
            for name, receiver in (("billing", first), ("audit", second))
        ]
        settings = ground.settings(CAPSULES_SINKS=json.dumps(sinks), LOG_LEVEL="debug")
        with traffic.watched(ground.redis_url):
            worker = WorkerProcess(tmp_path / "worker", **settings)
            await worker.wait_for("partitions_taken")
            ground.publish(log.entries)
            await eventually(ground.drained, what="all done")
        shown = await asyncio.to_thread(
            run_command, tmp_path, settings, "topology", "--live", "--format", "json"
        )
        plain = await asyncio.to_thread(
            run_command, tmp_path, settings, "topology", "--format", "json"
        )
        assert await worker.stop() == 0
        received = {"billing": len(first.arrivals), "audit": len(second.arrivals)}
    document = json.loads(shown.stdout)
    edges: dict[EDGE, int] = {(e["from"], e["to"]): e["entries"] for e in document["edges"]}
    assert [(e["from"], e["to"]) for e in json.loads(plain.stdout)["edges"]] == list(edges)
    assert_streams_are_those_of(traffic, edges, document)
    assert_tables_are_those_of(writers, edges, worker)
    # Sinks: who received anything, and how much.
    sent = {target: n for (_, target), n in edges.items() if target.startswith("sink.")}
    assert sent == {f"sink.{name}": n for name, n in received.items()}
    assert set(received.values()) == {sum(map(len, expected.deliveries.values()))}
    assert_stages_are_those_of(worker, edges)


def assert_streams_are_those_of(
    traffic: Traffic, edges: dict[EDGE, int], document: dict[str, Any]
) -> None:
    streams = {node["name"] for node in document["nodes"] if node["kind"] == "stream"}
    assert {source for source, _ in edges if source in streams} == traffic.read == streams
    into: dict[str, int] = {}
    for (_, target), entries in edges.items():
        if target in streams:
            into[target] = into.get(target, 0) + entries
    assert into == {topic: len(entries) for topic, entries in traffic.written.items()}
    # A letter says which stage it died at.
    died: dict[str, int] = {}
    for command in traffic.written["dead-letters"]:
        match = re.search(r"stage\W+([\w.-]+?)\\", command)
        assert match is not None, command
        died[match[1]] = died.get(match[1], 0) + 1
    over = {s: n for (s, target), n in edges.items() if target == "dead-letters" and n}
    assert over == died


def assert_tables_are_those_of(
    writers: Writers, edges: dict[EDGE, int], worker: WorkerProcess
) -> None:
    tables = writers.tables()
    shown = {(s, t) for (s, t), n in edges.items() if n and (t in tables or "capsule_rec" in t)}
    assert {target for _, target in shown} == set(tables)
    batches = {said["stage"] for said in worker.records() if said.get("action") == "batch_applied"}
    assert {s for s, t in shown if t == "capsule_reconciler.watermarks"} == batches
    assert {s for s, t in shown if t == "capsule_reconciler.dead_letters"} == {"keep"}
    assert {s for s, t in shown if t == "audit_logs"} == {"failure"}
    # The statement says which status it writes: one for each verb that writes one.
    queries = tables["sandboxes"]
    assert any("audit_logs" in query for query in queries)
    assert {s for s, t in shown if t == "sandboxes"} <= batches


def assert_stages_are_those_of(worker: WorkerProcess, edges: dict[EDGE, int]) -> None:
    """Agents are those that the log has at work."""
    at_work = {
        said["stage"]
        for said in worker.records()
        if said.get("action") in ("entries_done", "entries_skipped", "dead_letter")
    }
    named = {"route", "dispatch", "keep", *LANES, "hook.billing", "hook.audit"}
    assert at_work | {"dispatch"} == named
    assert {source for source, _ in edges} | {t for _, t in edges} >= named
    for verb in LANES:
        assert edges["dispatch", f"lane.{verb}"] == edges[f"lane.{verb}", verb] > 0
    # An agent reads one thing, and nothing but a stream or its lane leads to one.
    readers = [target for _, target in edges if target in named]
    assert sorted(readers) == sorted(named)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "table"],
        ["--format", "svg"],
        ["--nonsense"],
        ["surplus"],
    ],
)
def test_a_line_that_cannot_be_used_ends_with_2(
    ground: Ground, tmp_path: Path, arguments: list[str]
) -> None:
    done = run_command(tmp_path, ground.settings(), "topology", *arguments)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_live_table_fits_the_terminal(ground: Ground, tmp_path: Path, columns: int) -> None:
    with ground.redis() as client:
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        client.xadd(SOURCE, {"payload": "x"})
    done = run_command(tmp_path, ground.settings(), "topology", "--live", columns=columns)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "unowned" in done.stdout
    assert "read by nobody" in done.stdout
    # Without a worker, one with its own settings still shows what is there.
    assert "capsule_reconciler.watermarks" in done.stdout
