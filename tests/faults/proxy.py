"""A TCP proxy in front of a server, with the faults that a network has.

It runs in a thread of its own, so that a test that blocks does not hold up the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Proxy", "proxy_to"]

_LOOPBACK = "127.0.0.1"


@dataclass
class _LostReply:
    """A reply that is to be lost: to which request, and what it must have in it."""

    request: bytes
    reply: bytes
    times: int


@dataclass(eq=False)
class _Pipe:
    """One client's connection, and ours to the server on its behalf."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    #: The reply that is on its way is one to lose.
    loses: _LostReply | None = None

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


@dataclass
class Proxy:
    """Forwards to one port of the loopback interface; what it does may change at any time."""

    target_port: int
    port: int = 0
    #: How long each piece of a reply is held back.
    delay_s: float = 0.0
    #: Connections stay open, and nothing arrives, in either direction.
    is_blackhole: bool = False
    #: How many replies were lost so far.
    lost_replies: int = 0
    _loses: list[_LostReply] = field(default_factory=list)
    _pipes: set[_Pipe] = field(default_factory=set)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    def cut(self) -> None:
        """Reset all connections."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _cut(self) -> None:
        for pipe in list(self._pipes):
            pipe.abort()

    def lose_replies(self, request: bytes, reply: bytes = b"", *, times: int = 1) -> None:
        """Let requests with `request` in them through, and not what is answered.

        The connection is reset when the answer comes, if that has `reply` in it.
        """
        self._loses.append(_LostReply(request, reply, times))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await asyncio.open_connection(_LOOPBACK, self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pipe = _Pipe(writer, server)
        self._pipes.add(pipe)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, pipe))
                group.create_task(self._answer(upstream, pipe))
        except* OSError:
            pass
        finally:
            pipe.abort()
            self._pipes.discard(pipe)
            self._serving.discard(task)

    async def _forward(self, source: asyncio.StreamReader, pipe: _Pipe) -> None:
        while data := await source.read(1 << 20):
            if self.is_blackhole:
                continue
            for lost in self._loses:
                if lost.times > 0 and lost.request in data:
                    pipe.loses = lost
            pipe.server.write(data)
            await pipe.server.drain()
        raise ConnectionResetError

    async def _answer(self, source: asyncio.StreamReader, pipe: _Pipe) -> None:
        while data := await source.read(1 << 20):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.is_blackhole:
                continue
            if (lost := pipe.loses) is not None and lost.times > 0 and lost.reply in data:
                lost.times -= 1
                self.lost_replies += 1
                raise ConnectionResetError
            pipe.client.write(data)
            await pipe.client.drain()
        raise ConnectionResetError

    async def _run(self, up: threading.Event, over: asyncio.Event) -> None:
        server = await asyncio.start_server(self._serve, _LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        up.set()
        await over.wait()
        server.close()
        await self._cut()
        if self._serving:
            await asyncio.wait(self._serving)


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Have a proxy to `port` run."""
    proxy = Proxy(port)
    up = threading.Event()
    over = asyncio.Event()

    def serve() -> None:
        with asyncio.Runner() as runner:
            proxy._loop = runner.get_loop()
            runner.run(proxy._run(up, over))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert up.wait(10)
        yield proxy
    finally:
        assert proxy._loop is not None
        proxy._loop.call_soon_threadsafe(over.set)
        thread.join(10)
