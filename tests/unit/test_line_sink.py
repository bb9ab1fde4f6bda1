"""A sink that keeps a connection passes the kit: also cancelled between a line and its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from pydantic import SecretStr

from agents.hooks.testing import check_sink
from examples.line_sink import LineSink

TOKEN = "a-token-nobody-sees"


@dataclass
class Server:
    """Keeps each line once, as long as it is well."""

    state: str = "well"
    kept: dict[str, bytes] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    talks: list[asyncio.Task[None]] = field(default_factory=list)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.talks.append(asyncio.create_task(self.talk(reader, writer)))

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            assert await reader.readline() == f"token {TOKEN}\n".encode()
            while (line := await reader.readline()) and self.state != "broken":
                delivery_id = json.loads(line)["delivery_id"]
                if self.state == "hanging":
                    await self.over.wait()
                self.kept.setdefault(delivery_id, line)
                writer.write(f"ok {delivery_id}\n".encode())
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def being(self, state: str) -> Callable[[], AbstractAsyncContextManager[None]]:
        @asynccontextmanager
        async def entered() -> AsyncIterator[None]:
            self.state = state
            yield
            self.state = "well"

        return entered


async def test_it_keeps_the_contract() -> None:
    server = Server()
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        report = await check_sink(
            lambda: LineSink(
                "lines", LineSink.Options(host="127.0.0.1", port=port, token=SecretStr(TOKEN))
            ),
            delivered=lambda: list(server.kept),
            broken=server.being("broken"),
            hanging=server.being("hanging"),
            secrets=[TOKEN],
        )
    finally:
        server.over.set()
        listening.close()
        await asyncio.gather(*server.talks)
    assert report.not_shown == []
