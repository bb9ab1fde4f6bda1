"""The workers of one app, as they see each other through Redis.

Each worker beats: it adds one to its own count. Whose count has not moved for the length of a
lease, by the clock of whoever watches, is dead, and is removed with all it holds. No clock but
the watcher's own monotonic one is asked, so neither a server whose clock jumps nor one with
another time makes two owners or none.

A worker counts its own lease from *before* it sent a beat that arrived, and stops using what it
holds well before anybody else may think it dead.

A worker that was frozen past its lease may still have a read waiting in Redis, which would take
entries away from its successor. So each member's description names the connection it reads
over, and whoever removes a dead member has Redis close that connection first.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import orjson
import redis.asyncio
import structlog

from .errors import BrokerRefusedError, broker_errors
from .layout import StreamLayout
from .lua import script
from .sharing import Member

__all__ = ["Fleet", "Holding", "Table", "members_of", "read_members", "read_owners", "read_workers"]

log = structlog.get_logger(__name__)

MEMBERS = "fleet:members"
OWNERS = "fleet:owners"

#: The part of a lease after which its holder stops using it: what is left covers a command
#: that was sent just before, and clocks that run at slightly different rates.
_USABLE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class _Description:
    """What a member says of itself."""

    worker: str
    readable: frozenset[str] = frozenset()
    #: ``<server run id>/<client id>`` of the connection it reads over; empty before the first.
    reader: str = ""
    #: By topic: the topic of which a partition of it counts as so many.
    counts_as: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        return orjson.dumps(
            {
                "worker": self.worker,
                "readable": sorted(self.readable),
                "reader": self.reader,
                "counts_as": self.counts_as,
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> _Description:
        try:
            fields = orjson.loads(raw)
            worker, readable, reader = fields["worker"], fields["readable"], fields["reader"]
            # Workers from before topics could count as others do not say.
            said = fields.get("counts_as", {}).items()
            counts_as = {str(topic): (str(other), int(times)) for topic, (other, times) in said}
            return cls(str(worker), frozenset(map(str, readable)), str(reader), counts_as)
        except (ValueError, KeyError, TypeError, AttributeError):
            # None of ours: it reads nothing, and is removed once its count stands still.
            return cls("?")

    def as_member(self, token: str) -> Member:
        return Member(token, self.readable, self.counts_as)


@dataclass(frozen=True, slots=True)
class Table:
    """Who is there and who holds what, at one moment."""

    #: The live ones, this worker among them.
    members: tuple[Member, ...]
    #: Token of the holder, by partition.
    owners: dict[str, str]


@dataclass(frozen=True, slots=True)
class Holding:
    """That a worker holds a partition, as a script can see it."""

    owners_key: bytes
    partition: bytes
    token: bytes


class Fleet:
    """This worker's part in the fleet.

    Arguments:
        worker: its name, for people.
        lease_s: how long a count may stand still.
    """

    def __init__(
        self, client: redis.asyncio.Redis, layout: StreamLayout, *, worker: str, lease_s: float
    ) -> None:
        self._client = client
        self._lease_s = lease_s
        #: New for each process, so that a restarted worker never passes for its former self.
        self.token = secrets.token_hex(8)
        self._description = _Description(worker)
        self._members_key = layout.name(MEMBERS)
        self._beats_key = layout.name("fleet:beats")
        self._owners_key = layout.name(OWNERS)
        self._usable_until = 0.0
        #: Last known count of each member, and when it was seen to move.
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._beat = client.register_script(script("fleet_beat"))
        self._acquire = client.register_script(script("fleet_acquire"))
        self._release = client.register_script(script("fleet_release"))
        self._remove = client.register_script(script("fleet_remove"))

    def is_usable(self) -> bool:
        """Whether what this worker holds is safely its own, by its monotonic clock."""
        return monotonic() < self._usable_until

    def holding(self, partition: str) -> Holding:
        """What has to be so in Redis while this worker holds `partition`."""
        return Holding(self._owners_key, partition.encode(), self.token.encode())

    def would_read(
        self, partitions: Iterable[str], counts_as: Mapping[str, tuple[str, int]]
    ) -> None:
        """Say which partitions this worker can read, from the next beat on.

        Arguments:
            counts_as: by topic, the topic of which a partition of it counts as so many.
        """
        self._description = replace(
            self._description, readable=frozenset(partitions), counts_as=counts_as
        )

    async def reads_over(self, client_id: int) -> None:
        """Say which connection this worker reads over, from the next beat on.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        reader = f"{await self._run_id()}/{client_id}"
        self._description = replace(self._description, reader=reader)

    async def _run_id(self) -> str:
        with broker_errors("INFO"):
            return str((await self._client.info("server"))["run_id"])

    async def beat(self) -> Table:
        """Beat, remove who is dead, and return what is left.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        asked = monotonic()
        with broker_errors("fleet_beat"):
            answer = await self._beat(
                keys=[self._members_key, self._beats_key, self._owners_key],
                args=[self.token, self._description.to_bytes()],
            )
        members, beats, owners = (_pairs(part) for part in answer)
        descriptions = {
            token.decode(): _Description.from_bytes(raw) for token, raw in members.items()
        }
        holders = {partition.decode(): token.decode() for partition, token in owners.items()}
        now = monotonic()
        self._seen = {
            token.decode(): (count, now)
            if self._seen.get(token.decode(), (b"", 0.0))[0] != count
            else self._seen[token.decode()]
            for token, count in beats.items()
        }
        for token in list(descriptions):
            count, moved_at = self._seen.get(token, (b"", 0.0))
            if token != self.token and now - moved_at > self._lease_s:
                removed = await self._bury(token, count, descriptions[token])
                if removed:
                    del descriptions[token]
                    holders = {p: holder for p, holder in holders.items() if holder != token}
        # Only now, with nothing awaited before the caller has the table: what it says is lost
        # must not be read from any more.
        self._usable_until = asked + self._lease_s * _USABLE_SHARE
        return Table(tuple(said.as_member(token) for token, said in descriptions.items()), holders)

    async def _bury(self, token: str, count: bytes, said: _Description) -> bool:
        await self._cut_off(said.reader)
        with broker_errors("fleet_remove"):
            removed = await self._remove(
                keys=[self._members_key, self._beats_key, self._owners_key], args=[token, count]
            )
        if removed:
            log.warning("worker is gone", action="worker_removed", worker=said.worker)
        return bool(removed)

    async def _cut_off(self, reader: str) -> None:
        run_id, _, client_id = reader.partition("/")
        if not client_id or run_id != await self._run_id():
            return  # it never read, or read on a server that has restarted since
        try:
            with broker_errors("CLIENT KILL"):
                await self._client.client_kill_filter(_id=client_id)
        except BrokerRefusedError as exc:
            log.warning(
                "cannot close a dead worker's connection", action="reader_not_cut", error=str(exc)
            )

    async def acquire(self, partitions: Sequence[str]) -> list[str]:
        """Take those of `partitions` that are free, and return them.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        if not partitions:
            return []
        with broker_errors("fleet_acquire"):
            taken = await self._acquire(
                keys=[self._beats_key, self._owners_key], args=[self.token, *partitions]
            )
        return [name.decode() for name in taken]

    async def release(self, partitions: Sequence[str]) -> None:
        """Give `partitions` up.

        Raises:
            TransportError: Redis is unreachable or refuses; they stay this worker's for now.
        """
        if partitions:
            with broker_errors("fleet_release"):
                await self._release(keys=[self._owners_key], args=[self.token, *partitions])

    async def leave(self) -> None:
        """Be no member any more, and hold nothing.

        Raises:
            TransportError: Redis is unreachable or refuses; the others notice after a lease.
        """
        self._usable_until = 0.0
        with broker_errors("fleet_remove"):
            await self._remove(
                keys=[self._members_key, self._beats_key, self._owners_key],
                args=[self.token, ""],
            )

    def expire(self) -> None:
        """Stop using what is held, from now until the next beat."""
        self._usable_until = 0.0


def members_of(said: Mapping[bytes, bytes]) -> list[Member]:
    """Return the members that say `said` of themselves, by token, as Redis has it."""
    return [_Description.from_bytes(raw).as_member(token.decode()) for token, raw in said.items()]


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    it = iter(flat)
    return dict(zip(it, it, strict=True))


async def read_workers(client: redis.asyncio.Redis, layout: StreamLayout) -> dict[str, int]:
    """Return how many partitions each worker reads, by its name, without being one.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    pipeline = client.pipeline(transaction=True)
    pipeline.hgetall(layout.name(MEMBERS))
    pipeline.hvals(layout.name(OWNERS))
    with broker_errors("HGETALL"):
        members, holders = await pipeline.execute()
    return {
        _Description.from_bytes(raw).worker: holders.count(token) for token, raw in members.items()
    }


async def read_members(
    client: redis.asyncio.Redis, layout: StreamLayout
) -> dict[str, tuple[str, frozenset[str]]]:
    """Return, by the token of each member, its name and the partitions that it can read.

    A worker that has just started can read none yet.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("HGETALL"):
        members: dict[Any, Any] = await client.hgetall(layout.name(MEMBERS))
    described = {token.decode(): _Description.from_bytes(raw) for token, raw in members.items()}
    return {token: (said.worker, said.readable) for token, said in described.items()}


async def read_owners(client: redis.asyncio.Redis, layout: StreamLayout) -> dict[str, str]:
    """Return the name of the worker that reads each partition, by ``<topic>:<partition>``.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    pipeline = client.pipeline(transaction=True)
    pipeline.hgetall(layout.name(MEMBERS))
    pipeline.hgetall(layout.name(OWNERS))
    with broker_errors("HGETALL"):
        members, owners = await pipeline.execute()
    names = {token: _Description.from_bytes(raw).worker for token, raw in members.items()}
    return {
        partition.decode(): names[token] for partition, token in owners.items() if token in names
    }
