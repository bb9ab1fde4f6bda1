"""A sink that keeps a connection: an event is a line, and the receiver says `ok <delivery id>`."""

import asyncio

from pydantic import BaseModel, SecretStr

from streams.errors import DeliveryError, DeliveryRefusedError
from streams.events import SandboxEvent


class LineSink:
    class Options(BaseModel):
        host: str
        port: int
        token: SecretStr

    def __init__(self, name: str, options: Options) -> None:
        self._options = options
        self._talking = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def target(self) -> str:
        return f"{self._options.host}:{self._options.port}"

    async def check(self) -> None:
        async with self._talking:
            await self._connected()

    async def close(self) -> None:
        self._hang_up()

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        async with self._talking:
            answer = await self._ask(event.to_bytes())
        if answer == f"refused {event.delivery_id}":
            raise DeliveryRefusedError("the receiver refuses it")
        if answer != f"ok {event.delivery_id}":
            raise DeliveryError("the receiver did not say that it has it")

    async def _ask(self, line: bytes) -> str:
        try:
            reader, writer = await self._connected()
            writer.write(line + b"\n")
            await writer.drain()
            return (await reader.readline()).decode().strip()
        except OSError:
            self._hang_up()
            raise DeliveryError("the connection broke") from None
        except BaseException:
            # Cancelled: the answer that is still to come would be taken for the next one's.
            self._hang_up()
            raise

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self._hang_up()
            options = self._options
            try:
                self._streams = await asyncio.open_connection(options.host, options.port)
            except OSError:
                raise DeliveryError("nobody answers there") from None
            self._streams[1].write(f"token {options.token.get_secret_value()}\n".encode())
        return self._streams

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
