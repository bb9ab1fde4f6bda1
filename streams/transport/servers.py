"""Which server to dial: the URL's, Sentinel's primary, or the node that has the app's slot.

A URL says which of them, in its query; the rest of it is as redis-py reads it:

=================================================== ===========================================
``redis://user:password@host:6379/0``               that server; ``rediss://`` is TLS, set up by
                                                    redis-py's ``ssl_ca_certs=``,
                                                    ``ssl_certfile=``, ``ssl_keyfile=``, ...
``redis://s1:26379/0?seed=s2:26379&sentinel=NAME``  the primary that the Sentinels call NAME
``redis://n1:6379?seed=n2:6379&cluster=KEY``        the master of the slot of KEY in a cluster
=================================================== ===========================================

All keys of an app are in one slot, by their hash tag, so that a cluster is one server to it. The
hosts are asked in turn at each connect, the one that answered last first, and in a cluster also
the masters it named. User, password and TLS settings are for the hosts that are asked and for the
server they name; a Sentinel that refuses the user is asked without.

When a server says that it is not, or no longer, the one to talk to, all connections to it are
dialled anew before they are used again. What was asked fails and is not repeated here: a slot
that moves or a primary that fails is an outage of a moment, and is waited out as one.

The least that the user needs, of an app whose keys start with ``{tag}:`` and which reads the
stream ``tag``, as one line for ``ACL SETUSER``::

    resetkeys ~{tag}:* ~tag resetchannels
    -@all +client|id +client|setname +client|setinfo +client|unblock +client|kill +info
    +xadd +xreadgroup +xack +xtrim +xpending +xclaim +xrange +xlen
    +xinfo|stream +xinfo|groups +xinfo|consumers +xgroup|create +xgroup|delconsumer
    +hget +hmget +hset +hsetnx +hdel +hexists +hincrby +hgetall
    +evalsha +script|load +script|exists

In a cluster also ``+cluster|slots``; with a database number ``+select``; for Faust's replies
``+expire +del``; to look at the figures ``+multi +exec +hvals``. The user that Sentinels are
asked as needs ``+sentinel|get-master-addr-by-name`` there, beside the
``+client|setname +client|setinfo`` that redis-py begins each connection with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis.exceptions
from redis.asyncio.connection import Connection
from redis.crc import key_slot
from yarl import URL

__all__ = ["Address", "ClusterServer", "FixedServer", "SentinelServer", "Server", "server_of"]

_SEED = "seed"
_SENTINEL = "sentinel"
_CLUSTER = "cluster"
_REDIS_PORT = 6379
_SENTINEL_PORT = 26379

Address = tuple[str, int]
"""Host and port."""


class Dial(Protocol):
    """Makes a connection, not connected yet."""

    def __call__(self, address: Address, *, anonymous: bool = False) -> Connection:
        """Return a connection to `address`, without user and password if `anonymous`."""


class Server(Protocol):
    """The server to dial, whichever it is at the time."""

    async def find(self, dial: Dial) -> Address:
        """Return its address.

        Raises:
            redis.exceptions.RedisError: nobody who was asked knows, or answers.
        """

    def hint(self, address: Address) -> None:
        """Be told by a server that it is another one that should know."""


class FixedServer:
    """The server that the URL names."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self, dial: Dial) -> Address:
        """Return the address of the URL; nobody is asked."""
        return self._address

    def hint(self, address: Address) -> None:
        """Ignore it: the URL is what counts."""


class _AskedServer:
    """A server whose address others know."""

    def __init__(self, seeds: Sequence[Address]) -> None:
        self._seeds = tuple(seeds)
        self._order = list(seeds)

    def hint(self, address: Address) -> None:
        """Ask `address` first the next time."""
        self._order = [address, *(known for known in self._order if known != address)]

    async def find(self, dial: Dial) -> Address:
        """Ask one after the other until one knows.

        Raises:
            redis.exceptions.RedisError: nobody who was asked knows, or answers.
        """
        said: list[str] = []
        refusal: Exception | None = None
        for asked in [*self._order]:
            try:
                found = await self._ask(dial, asked)
            except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError) as exc:
                refusal = exc
            except (
                redis.exceptions.ConnectionError,
                redis.exceptions.TimeoutError,
                OSError,
            ) as exc:
                said.append(f"{_shown(asked)}: {exc}")
            else:
                if found is not None:
                    self.hint(asked)
                    return found
                said.append(f"{_shown(asked)} does not know")
        if refusal is not None:
            raise refusal
        raise redis.exceptions.ConnectionError(f"no address of {self}; {'; '.join(said)}")

    async def _ask(self, dial: Dial, asked: Address) -> Address | None:
        raise NotImplementedError


class SentinelServer(_AskedServer):
    """The primary that Sentinels watch under `name`."""

    def __init__(self, seeds: Sequence[Address], name: str) -> None:
        super().__init__(seeds)
        self._name = name

    def __str__(self) -> str:
        return f"the primary {self._name!r}"

    def hint(self, address: Address) -> None:
        """Ask `address` first the next time, if it is a Sentinel."""
        if address in self._seeds:
            super().hint(address)

    async def _ask(self, dial: Dial, asked: Address) -> Address | None:
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        try:
            answer = await _answer(dial(asked), *command)
        except redis.exceptions.AuthenticationError:
            answer = await _answer(dial(asked, anonymous=True), *command)
        return (answer[0].decode(), int(answer[1])) if answer else None


class ClusterServer(_AskedServer):
    """The master of the slot of `key` in a cluster."""

    def __init__(self, seeds: Sequence[Address], key: str) -> None:
        super().__init__(seeds)
        self._slot = key_slot(key.encode())

    def __str__(self) -> str:
        return f"the master of slot {self._slot}"

    async def _ask(self, dial: Dial, asked: Address) -> Address | None:
        found: Address | None = None
        masters: list[Address] = []
        for first, last, master, *_ in await _answer(dial(asked), "CLUSTER", "SLOTS"):
            # A node without an address of its own is where it was asked.
            host = (master[0] or b"").decode().removeprefix("?") or asked[0]
            masters.append((host, int(master[1])))
            if first <= self._slot <= last:
                found = masters[-1]
        if found is not None:
            # Other nodes than in the URL may be left when the next question comes.
            self._order = list(dict.fromkeys((*self._seeds, *masters)))
        return found


def _shown(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


async def _answer(connection: Connection, *command: str) -> Any:
    try:
        await connection.connect()
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """What a URL says."""

    server: Server
    #: The URL without what redis-py does not know.
    url: URL


def server_of(url: URL) -> ServerUrl:
    """Read `url`.

    Raises:
        ValueError: it asks for Sentinel and for a cluster, or for seeds of neither.
    """
    sentinel, cluster = url.query.get(_SENTINEL), url.query.get(_CLUSTER)
    default_port = _REDIS_PORT if sentinel is None else _SENTINEL_PORT
    first = (url.host or "localhost", url.explicit_port or default_port)
    others = [_address(seed, default_port) for seed in url.query.getall(_SEED, [])]
    plain = url.without_query_params(_SEED, _SENTINEL, _CLUSTER)
    if sentinel is not None and cluster is not None:
        raise ValueError("a URL has sentinel= or cluster=, not both")
    if sentinel is not None:
        return ServerUrl(SentinelServer([first, *others], sentinel), plain)
    if cluster is not None:
        return ServerUrl(ClusterServer([first, *others], cluster), plain)
    if others:
        raise ValueError("a URL with seed= has sentinel= or cluster= as well")
    return ServerUrl(FixedServer(first), plain)


def _address(seed: str, default_port: int) -> Address:
    url = URL(f"redis://{seed}")
    if not url.host:
        raise ValueError(f"seed={seed!r} is no host")
    return url.host, url.explicit_port or default_port
