"""A run of the reconciler on real servers, and its comparison with the oracle."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

import psycopg2
import psycopg2.extras
import redis
from aiohttp import web

from streams.transport.fleet import members_of
from streams.transport.sharing import Move, plan
from tests.oracle import AuditRow, Delivery, Entry, Outcome, Row

__all__ = ["GROUP", "PREFIX", "SOURCE", "Ground", "Receiver", "assert_same"]

GROUP = "wrenn-sandbox-reconciler-v1"
SOURCE = "wrenn:events"
PREFIX = f"{{{SOURCE}}}:{GROUP}:"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@dataclass
class Ground:
    """The servers of one run."""

    redis_url: str
    database_url: str

    def settings(self, **more: str) -> dict[str, str]:
        """The environment of a worker on these servers, with a short lease."""
        return {
            "REDIS_URL": self.redis_url,
            "DATABASE_URL": self.database_url,
            "CAPSULES_SOURCE_START_ID": "0",
            "CAPSULES_LEASE_S": "1",
            "LOG_LEVEL": "info",
        } | more

    @contextmanager
    def redis(self) -> Iterator[Any]:
        """Give a client; redis-py types each answer as everything it might be, so it has none."""
        with closing(redis.Redis.from_url(self.redis_url)) as client:
            yield client

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        with (
            closing(psycopg2.connect(self.database_url)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def clear(self) -> None:
        """Empty Redis."""
        with self.redis() as client:
            client.flushall()

    def last_id(self) -> str:
        """The id of the last entry of the source stream."""
        with self.redis() as client:
            last: bytes = client.xinfo_stream(SOURCE)["last-generated-id"]
            return last.decode()

    def load(self, rows: Mapping[UUID, Row]) -> None:
        """Make these the only rows, and forget what was done before."""
        with self.cursor() as cursor:
            cursor.execute(
                "truncate sandboxes, audit_logs, capsule_reconciler.watermarks,"
                " capsule_reconciler.dead_letters"
            )
            psycopg2.extras.execute_values(
                cursor,
                "insert into sandboxes (id, team_id, status, host_ip) values %s",
                [
                    (str(capsule_id), str(row.team_id), row.status, row.host_ip)
                    for capsule_id, row in rows.items()
                ],
            )

    def refuse(self, entry_ids: Iterable[str]) -> None:
        """Have Postgres refuse the marks of these entries, as it does a value that does not fit."""
        with self.cursor() as cursor:
            cursor.execute("create table refused (entry_id text primary key)")
            cursor.execute("insert into refused select unnest(%s)", (list(entry_ids),))
            cursor.execute(
                "create function refuse() returns trigger language plpgsql as $$ begin"
                " if exists (select from refused where entry_id = new.ms || '-' || new.seq) then"
                "  raise exception 'refused' using errcode = 'check_violation'; end if;"
                " return new; end $$;"
                "create trigger refuse before insert or update on capsule_reconciler.watermarks"
                " for each row execute function refuse()"
            )

    def publish(self, entries: Iterable[Entry]) -> None:
        """Append `entries` under their own ids."""
        with self.redis() as client:
            pipeline = client.pipeline(transaction=False)
            for number, (entry_id, payload) in enumerate(entries):
                fields = {"payload": payload} if payload is not None else {"other": b"field"}
                pipeline.xadd(SOURCE, fields, id=entry_id)
                if number % 1_000 == 999:
                    pipeline.execute()
            pipeline.execute()

    def shares(self) -> list[int]:
        """How many partitions each worker reads, least first."""
        with self.redis() as client, client.pipeline(transaction=True) as at_once:
            at_once.hkeys(f"{PREFIX}fleet:members").hvals(f"{PREFIX}fleet:owners")
            members, holders = at_once.execute()
        assert set(holders) <= set(members)
        return sorted(holders.count(token) for token in members)

    def is_shared_by(self, workers: int) -> bool:
        """Whether so many workers are there and none has anything to take or to give up."""
        with self.redis() as client, client.pipeline(transaction=True) as at_once:
            at_once.hgetall(f"{PREFIX}fleet:members").hgetall(f"{PREFIX}fleet:owners")
            said, held = at_once.execute()
        members = members_of(said)
        owners = {partition.decode(): token.decode() for partition, token in held.items()}
        return (
            len(members) == workers
            and all(member.readable for member in members)
            and all(plan(member.token, members, owners) == Move() for member in members)
        )

    def drained(self) -> bool:
        """Whether nothing is left to do, looking upstream first."""
        with self.redis() as client:
            own = [
                key
                for topic in ("capsules:*", "hooks.*", "dead-letters:*")
                for key in sorted(client.keys(PREFIX + topic))
            ]
            if len(own) == 0:
                return False
            for key in [SOURCE.encode(), *own]:
                generated = client.xinfo_stream(key)["last-generated-id"]
                groups = [
                    info for info in client.xinfo_groups(key) if info["name"] == GROUP.encode()
                ]
                if not groups or groups[0]["pending"]:
                    return False
                if groups[0]["last-delivered-id"] != generated and client.xlen(key):
                    return False
        return True

    def waiting(self, topic: str) -> int:
        """How many messages of `topic` are unread, or pending and not noted as done with."""
        found = 0
        with self.redis() as client:
            for key in client.keys(f"{PREFIX}{topic}:*"):
                [group] = client.xinfo_groups(key)
                read_up_to = _order(group["last-delivered-id"])
                pages = client.xpending_range(key, GROUP, "-", "+", 1_000_000)
                pending = {about["message_id"] for about in pages}
                noted = client.hgetall(key.replace(PREFIX.encode(), f"{PREFIX}parts:".encode()))
                for entry_id, fields in client.xrange(key):
                    if entry_id in pending or _order(entry_id) > read_up_to:
                        places = noted.get(entry_id, b"").split(b",")
                        found += int(fields.get(b"n", 1)) - len(list(filter(None, places)))
        return found

    def outcome(self, receiver: Receiver | None = None) -> Outcome:
        """What the run has left behind, in the oracle's terms; entry ids of audit rows are ''."""
        result = Outcome(rows=self._rows())
        with self.cursor() as cursor:
            cursor.execute(
                "select team_id, resource_id, action, metadata, actor_type, actor_id, actor_name,"
                " resource_type, scope, status from audit_logs"
            )
            for team_id, resource_id, action, metadata, *rest in cursor.fetchall():
                assert rest == ["system", None, "", "sandbox", "team", "error"]
                result.audit.append(AuditRow(UUID(team_id), resource_id, action, metadata, ""))
            cursor.execute("select origin_id from capsule_reconciler.dead_letters where sink = ''")
            result.dead_lettered = [origin_id for (origin_id,) in cursor.fetchall()]
        if receiver is not None:
            result.deliveries = receiver.first_deliveries()
        return result

    def _rows(self) -> dict[UUID, Row]:
        with self.cursor() as cursor:
            cursor.execute(
                "select id, status, team_id, host_ip, started_at is not null,"
                " last_updated is not null, started_at is not distinct from last_active_at"
                " from sandboxes"
            )
            rows = {}
            for capsule_id, status, team_id, host_ip, started, updated, together in cursor:
                assert together
                rows[UUID(capsule_id)] = Row(status, UUID(team_id), host_ip, started, updated)
        return rows

    def watermarks(self) -> dict[UUID, str]:
        """The last entry applied, by capsule."""
        with self.cursor() as cursor:
            cursor.execute("select capsule_id, ms, seq from capsule_reconciler.watermarks")
            return {UUID(capsule): f"{ms}-{seq}" for capsule, ms, seq in cursor.fetchall()}


@dataclass
class Receiver:
    """A webhook receiver that remembers what came, in the order it came."""

    port: int = 0
    arrivals: list[Delivery] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def settings(self) -> dict[str, str]:
        """The setting that has a worker deliver here."""
        sink = {
            "name": "receiver",
            "type": "webhook",
            "url": f"http://127.0.0.1:{self.port}/",
            "secret": SECRET,
            "allow_private": True,
        }
        return {"CAPSULES_SINKS": json.dumps([sink])}

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.json()
        data = body["data"]
        self.arrivals.append(
            Delivery(
                request.headers["webhook-id"],
                body["type"].removeprefix("capsule."),
                _uuid(data["capsule_id"]),
                _uuid(data["team_id"]) if data["team_id"] else None,
                data["metadata"],
            )
        )
        return web.Response(status=204)

    def first_deliveries(self) -> dict[UUID, list[Delivery]]:
        """What came, by capsule, each delivery where it came first."""
        found: dict[UUID, dict[str, Delivery]] = defaultdict(dict)
        for delivery in self.arrivals:
            first = found[delivery.capsule_id].setdefault(delivery.delivery_id, delivery)
            assert first == delivery, "a repeated delivery differs from the first"
        return {capsule_id: list(by_id.values()) for capsule_id, by_id in found.items()}


def _order(entry_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split(b"-")))


def _uuid(text: str) -> UUID:
    return UUID(int=int(text.partition("-")[2], 36))


def assert_same(actual: Outcome, expected: Outcome) -> None:
    """Fail unless rows, audit rows, deliveries and dead letters are the oracle's."""
    assert actual.rows == expected.rows
    assert _audit_key(actual) == _audit_key(expected)
    assert sorted(actual.dead_lettered) == sorted(expected.dead_lettered)
    assert actual.deliveries == dict(expected.deliveries)


def _audit_key(outcome: Outcome) -> list[tuple[str, ...]]:
    return sorted(
        (str(row.team_id), row.resource_id, row.action, json.dumps(row.metadata, sort_keys=True))
        for row in outcome.audit
    )
