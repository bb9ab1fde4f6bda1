"""How the transport connects: no silent retries, and a connection of its own for the reader.

redis-py repeats a command by itself after a lost connection. For XADD that doubles an entry,
and for XREADGROUP it hides that the first answer, with its entries, was lost; so its retries
are off, and who calls decides.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from yarl import URL

from .errors import BrokerUnavailableError, broker_errors

__all__ = ["ReaderConnection", "connect"]


def connect(url: URL, *, timeout_s: float, name: str) -> redis.asyncio.Redis:
    """Return a client for `url` that does not retry by itself (nothing is dialled yet).

    Arguments:
        url: ``redis://`` or ``rediss://`` with user, password, port and database as redis-py
            reads them.
        timeout_s: bound on connecting and on each answer.
        name: shown by ``CLIENT LIST``.
    """
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        str(url),
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        client_name=name,
        health_check_interval=0,
    )
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
        with broker_errors("CONNECT"):
            await connection.connect()
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
            with broker_errors(str(command[0])):
                await connection.send_command(*command)
                answer = await connection.read_response(timeout=self._timeout_s + wait_s)
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
