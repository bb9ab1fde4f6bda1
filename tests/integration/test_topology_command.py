"""`topology` shows what really flows: its edges are those seen from outside, and no other."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from streams.events import CapsuleEvent, EntryId, read_event
from streams.transport.bundles import as_messages
from tests.command_line import run_command
from tests.event_log import generate
from tests.faults.scene import FaultyReceiver
from tests.oracle import Entry
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import WorkerProcess, eventually

EDGE = tuple[str, str]
#: By the contract: who reads each topic, and what a delivery is called of which verb.
READERS = {SOURCE: "route", "capsules": "dispatch", "dead-letters": "keep"}
TYPES = {"created": "create", "paused": "pause", "resumed": "resume", "destroyed": "destroy"}
#: The only events that a status change can be of, by what it is from and to.
CHANGES = {
    ("starting", "running"): "create",
    ("resuming", "running"): "resume",
    **{(status, "paused"): "pause" for status in ("running", "pausing")},
    **{(status, "stopped"): "destroy" for status in ("running", "stopping")},
}
#: Of an entry that the test itself writes into the middle of the flow.
STRAY = b"1-1"


def topic_of(key: str) -> str:
    """The topic behind a key of the app."""
    return SOURCE if key == SOURCE else key.removeprefix(PREFIX).rpartition(":")[0]


def lane_of(payload: bytes) -> str:
    """The verb, or the failure, that an event is about."""
    event = json.loads(payload)
    verb: str = event["event"].removeprefix("capsule.")
    return verb if event.get("outcome") == "success" else "failure"


class Traffic:
    """What Redis is told, by MONITOR: entries acknowledged, and entries written, as they are."""

    def __init__(self) -> None:
        #: By topic: key and id of each.
        self.acknowledged: dict[str, set[tuple[str, str]]] = defaultdict(set)
        #: By topic: how many messages each entry holds.
        self.held: dict[str, list[int]] = defaultdict(list)
        #: By topic: the fields of each message.
        self.written: dict[str, list[dict[str, bytes]]] = defaultdict(list)

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
        name, key = (words[0].upper(), words[1]) if len(words) > 1 else ("", "")
        if name == "XACK":
            self.acknowledged[topic_of(key)] |= {(key, entry_id) for entry_id in words[3:]}
        elif name == "XADD" and key.startswith(PREFIX):
            raw = [word.encode().decode("unicode_escape").encode("latin-1") for word in words[3:]]
            messages = as_messages(b"", raw)
            self.held[topic_of(key)].append(len(messages))
            for _, message in messages:
                fields = {name.decode(): value for name, value in message.items()}
                if fields.get("h:source-id") != STRAY:
                    self.written[topic_of(key)].append(fields)


class Rows:
    """What Postgres is told, by triggers: each row that is written, with what tells whose it is."""

    def __init__(self, ground: Ground, *, refused: list[str]) -> None:
        self._ground = ground
        with ground.cursor() as cursor:
            cursor.execute(
                "create schema seen; create table seen.rows (name text, before text, after text);"
                "create table seen.refused (id text)"
            )
            cursor.execute("insert into seen.refused select unnest(%s)", (refused,))
            for table, told in (
                ("sandboxes", "old.status, new.status"),
                ("audit_logs", "null, new.action"),
                ("capsule_reconciler.watermarks", "null, new.ms || '-' || new.seq"),
                ("capsule_reconciler.dead_letters", "null, new.stage"),
            ):
                name = table.replace(".", "_")
                event = "update" if table == "sandboxes" else "insert or update"
                cursor.execute(
                    f"create function seen.{name}() returns trigger language plpgsql as $$ begin"  # noqa: S608 - of constants
                    f" insert into seen.rows values ('{table}', {told}); return null; end $$;"
                    f"create trigger seen after {event} on {table}"
                    f" for each row execute function seen.{name}()"
                )
            cursor.execute(
                "create function seen.refuse() returns trigger language plpgsql as $$ begin"
                " if exists (select from seen.refused where id = new.ms || '-' || new.seq) then"
                "  raise exception 'refused' using errcode = 'check_violation'; end if;"
                " return new; end $$;"
                "create trigger refuse before insert or update on capsule_reconciler.watermarks"
                " for each row execute function seen.refuse()"
            )

    def written(self) -> list[tuple[str, str, str]]:
        """Table, status before, and what tells whose it is."""
        with self._ground.cursor() as cursor:
            cursor.execute("select name, before, after from seen.rows")
            found: list[tuple[str, str, str]] = cursor.fetchall()
        return found


def edges_of(traffic: Traffic, rows: Rows, received: Mapping[str, int]) -> Counter[EDGE]:
    """What went over which edge, by what was written and acknowledged, and by the contract."""
    found: Counter[EDGE] = Counter()
    for topic, acknowledged in traffic.acknowledged.items():
        reader = READERS.get(topic) or topic.replace("hooks.", "hook.")
        found[topic, reader] += len(acknowledged)
        if held := traffic.held.get(topic):
            # Each entry once, and so are the messages in it.
            assert len(acknowledged) == len(held)
            found[topic, reader] = sum(held)
    payloads: dict[str, bytes] = {}
    for fields in traffic.written["capsules"]:
        found["route", "capsules"] += 1
        payloads[fields["h:source-id"].decode()] = fields["v"]
        lane = lane_of(fields["v"])
        found["dispatch", f"lane.{lane}"] += 1
        found[f"lane.{lane}", lane] += 1
    for topic in traffic.written.keys() - {"capsules", "dead-letters"}:
        for fields in traffic.written[topic]:
            found[TYPES[json.loads(fields["v"])["type"]], topic] += 1
    for fields in traffic.written["dead-letters"]:
        found[json.loads(fields["h:letter"])["stage"], "dead-letters"] += 1
    for table, before, after in rows.written():
        if table == "sandboxes":
            stage = "failure" if after == "error" else CHANGES[before, after]
        elif table == "audit_logs":
            stage = "failure"
        elif table == "capsule_reconciler.watermarks":
            stage = lane_of(payloads[after])
        else:
            stage = "keep"
        found[stage, table] += 1
    for sink, deliveries in received.items():
        found[f"hook.{sink}", f"sink.{sink}"] += deliveries
    return found


def one_of_each_lane(entries: Sequence[Entry]) -> list[str]:
    """The id of an entry that goes into each lane."""
    found: dict[str, str] = {}
    for entry_id, payload in entries:
        event = read_event(EntryId.parse(entry_id), payload)
        if isinstance(event, CapsuleEvent) and payload is not None:
            found.setdefault(lane_of(payload), entry_id)
    assert len(found) == 5
    return list(found.values())


async def refuses_some(request: web.Request) -> web.Response | None:
    """Refuse what is created, for good."""
    body = await request.json()
    return web.Response(status=400) if body["type"] == "capsule.created" else None


async def test_the_edges_are_those_of_the_traffic(ground: Ground, tmp_path: Path) -> None:
    """A run in which something goes over each edge: letters die at each stage, too."""
    log = generate(77, events=800, capsules=60)
    ground.load(log.rows)
    rows = Rows(ground, refused=one_of_each_lane(log.entries))
    traffic = Traffic()
    async with FaultyReceiver() as first, FaultyReceiver() as second:
        first.answer = second.answer = refuses_some
        sinks = [
            json.loads(receiver.settings()["CAPSULES_SINKS"])[0] | {"name": name}
            for name, receiver in (("billing", first), ("audit", second))
        ]
        settings = ground.settings(CAPSULES_SINKS=json.dumps(sinks))
        with traffic.watched(ground.redis_url):
            worker = WorkerProcess(tmp_path / "worker", **settings)
            await worker.wait_for("partitions_taken")
            with ground.redis() as client:
                client.xadd(f"{PREFIX}capsules:0", {"v": b"no event", "h:source-id": STRAY})
            ground.publish(log.entries)
            await eventually(ground.drained, what="all done")
        received = {"billing": len(first.arrivals), "audit": len(second.arrivals)}
        expected = edges_of(traffic, rows, received)
        edges: dict[EDGE, int] = {}
        deadline = time.monotonic() + 10
        while edges != expected and time.monotonic() < deadline:  # told once a second
            document = await shown(tmp_path, settings, "--live")
            edges = {(e["from"], e["to"]): e["entries"] for e in document["edges"]}
        assert edges == expected
        assert all(edges.values())
        plain = await shown(tmp_path, settings)
        assert [(e["from"], e["to"]) for e in plain["edges"]] == list(edges)
        named = {name for edge in expected for name in edge}
        assert {node["name"] for node in plain["nodes"]} == named
        assert await worker.stop() == 0


async def shown(directory: Path, settings: dict[str, str], *arguments: str) -> dict[str, Any]:
    done = await asyncio.to_thread(
        run_command, directory, settings, "topology", *arguments, "--format", "json"
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


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
