"""How the transport connects: no silent retries, and a connection of its own for the reader.

redis-py repeats a command by itself after a lost connection. For XADD that doubles an entry,
and for XREADGROUP it hides that the first answer, with its entries, was lost; so its retries
are off, and who calls decides.

Its asyncio connections pack each argument of a command in Python, and leave only the reading of
answers to hiredis. The command that waits on all streams has a hundred of them and more.

It also sends with `asyncio.wait_for`, which in Python 3.11 swallows a cancellation that comes
just as the command is out. A loop that talks to Redis until it is cancelled would then go on
for ever, and so would the stop of the worker that waits for it.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, ClassVar, cast

import hiredis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, DataError, MovedError, ReadOnlyError
from yarl import URL

from .errors import BrokerUnavailableError, broker_errors
from .servers import Address, Dial, Server, server_of

__all__ = ["ReaderConnection", "connect"]


#: Errors by which a server says that another one is the one to talk to, or will be.
_WRONG_SERVER = (MovedError, ReadOnlyError, ClusterDownError)


class _Cancellable:
    """Mixed into redis-py's connections: a cancellation is not lost while sending."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        task = asyncio.current_task()
        requests = task.cancelling() if task is not None else 0
        await super().send_packed_command(command, check_health)  # type: ignore[misc]
        if task is not None and task.cancelling() > requests:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise asyncio.CancelledError


class _PackedInC:
    """Mixed into redis-py's connections: hiredis packs the commands.

    Not by `HiredisRespSerializer`, as its other connections do it: that looks at each argument in
    Python first, which takes three times as long.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *rest = args
        # As redis-py has it: "XGROUP CREATE" is two arguments.
        words = name.split() if isinstance(name, str | bytes) else [name]
        try:
            return [hiredis.pack_command((*words, *rest))]
        except TypeError as exc:
            raise DataError(f"{words[0]!r} has an argument of another type: {exc}") from exc


class _Route:
    """Where the connections of one client go, and since when."""

    def __init__(self, server: Server, dial: Dial) -> None:
        self._server = server
        self._dial = dial
        self._last: Address | None = None
        #: Goes up when what was dialled before is not to be used any more.
        self.generation = 0

    async def find(self) -> tuple[Address, int]:
        """Return where to dial now, and the generation of what is dialled there."""
        generation = self.generation
        address = await self._server.find(self._dial)
        if address != self._last:
            self._last = address
            self.generation = generation = self.generation + 1
        return address, generation

    def turn_away(self, generation: int, exc: Exception) -> None:
        """Note that a connection dialled in `generation` has led to the wrong server."""
        if isinstance(exc, MovedError) and exc.host:
            self._server.hint((exc.host, exc.port))
        if generation == self.generation:
            self.generation += 1


class _Routed(_PackedInC, _Cancellable):
    """Mixed into redis-py's connections: each connect goes where the server is at the time."""

    #: Set in the class that is made for each client.
    route: ClassVar[_Route]
    _generation = 0

    async def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        connection = cast("Connection", self)
        if connection.is_connected:
            if self._generation == self.route.generation:
                return
            await connection.disconnect(nowait=True)
        (connection.host, connection.port), self._generation = await self.route.find()
        await super().connect_check_health(check_health, retry_socket_connect)  # type: ignore[misc]

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except _WRONG_SERVER as exc:
            # Not hung up here: the answers to the rest of a pipeline are still to come.
            self.route.turn_away(self._generation, exc)
            raise


def connect(url: URL, *, timeout_s: float, name: str) -> redis.asyncio.Redis:
    """Return a client for `url` that does not retry by itself (nothing is dialled yet).

    Arguments:
        url: ``redis://`` or ``rediss://`` with user, password, port and database as redis-py
            reads them, and which server is meant as :mod:`.servers` does.
        timeout_s: bound on connecting and on each answer.
        name: shown by ``CLIENT LIST``.
    """
    asked = server_of(url)
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        str(asked.url),
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        client_name=name,
        health_check_interval=0,
    )
    pool = client.connection_pool
    base = pool.connection_class
    asking = type(base.__name__, (_Cancellable, base), {})

    def dial(address: Address, *, anonymous: bool = False) -> Connection:
        host, port = address
        own: dict[str, Any] = {"host": host, "port": port, "db": 0}
        if anonymous:
            own |= {"username": None, "password": None}
        connection: Connection = asking(**(pool.connection_kwargs | own))
        return connection

    route = _Route(asked.server, dial)
    pool.connection_class = type(base.__name__, (_Routed, base), {"route": route})
    return client


class ReaderConnection:
    """The one connection that blocks in XREADGROUP.

    Answers come as redis-py's parser leaves them, without its per-command shaping, which would
    cost more than all else that is done per entry here.
    """

    def __init__(self, client: redis.asyncio.Redis, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._connection: AbstractConnection | None = None
        #: Redis' number for this connection, for CLIENT UNBLOCK; 0 while there is none.
        self.client_id = 0

    @property
    def is_open(self) -> bool:
        """Whether the last command left the connection usable."""
        return self._connection is not None

    async def open(self) -> None:
        """Dial and learn the client id.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        await self.close()
        connection: AbstractConnection = self._client.connection_pool.make_connection()
        try:
            with broker_errors("CONNECT"):
                await connection.connect()
        except BaseException:
            # redis-py leaves the socket open if it is cancelled while it introduces itself.
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        self.client_id = int(await self.execute("CLIENT", "ID"))

    async def execute(self, *command: bytes | str | int, wait_s: float = 0.0) -> Any:
        """Send one command; its answer may take `wait_s` beyond the time-out.

        An answer that was not read whole leaves the connection closed: what was delivered by
        it is then pending in Redis and has to be read again from there.
        """
        connection = self._connection
        if connection is None:
            raise BrokerUnavailableError("reader connection is not open")
        intact = False
        try:
            name = command[0]
            with broker_errors(name.decode() if isinstance(name, bytes) else str(name)):
                # Not redis-py's own time-out for one answer: that returns None and leaves the
                # answer to be taken for that of the next command.
                async with asyncio.timeout(self._timeout_s + wait_s):
                    await connection.send_command(*command)
                    answer = await connection.read_response(timeout=math.inf)
            intact = True
            return answer
        finally:
            if not intact:
                await self.close()

    async def close(self) -> None:
        """Hang up, if connected."""
        connection, self._connection = self._connection, None
        self.client_id = 0
        if connection is not None:
            await connection.disconnect(nowait=True)
