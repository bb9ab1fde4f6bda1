"""A real HTTP server on a free loopback port for the webhook sink to post to."""

from __future__ import annotations

import asyncio
import base64
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import pytest
from aiohttp import web

from agents.hooks import Sink, WebhookSink
from streams.errors import DeliveryError
from streams.events import SandboxEvent

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
NEXT_SECRET = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()
PASSWORD = "userinfo-password"
TOKEN = "query-token"
ANSWER = "what the receiver answered"
CAPSULE = UUID("018f4a52-7e0c-7a31-9d55-3f6f0a1b2c3d")
TEAM = UUID("018f4a52-7e0c-7a31-9d55-000000000001")
# Far enough back that a signature over this time would be refused as too old.
OCCURRED_AT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Received:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A server that records every request and gives the answer a test sets."""

    answer: Answer
    port: int = 0
    received: list[Received] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    # Set when the test is over, so that a handler that hangs on purpose can end.
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.received.append(Received(request.path, headers, await request.read()))
        return await self.answer(request)

    def url(self) -> str:
        return webhook_url(self.port)


def webhook_url(port: int) -> str:
    """A loopback URL with something secret wherever a URL can have it."""
    return f"http://user:{PASSWORD}@127.0.0.1:{port}/hook?token={TOKEN}"


def answering(status: int, **headers: str) -> Answer:
    """An answer of this status; ``Retry_After=...`` gives it that header."""

    async def answer(_request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=ANSWER, headers=named)

    return answer


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens, and answers 204 until told otherwise."""
    receiver = Receiver(answering(204))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        receiver.over.set()
        await runner.cleanup()


@asynccontextmanager
async def opened_sink(
    url: str, *secrets: str, timeout_s: float = 30.0
) -> AsyncIterator[WebhookSink]:
    """A webhook sink with its session open; by default it signs with ``SECRET``."""
    sink = WebhookSink("billing", url, secrets or (SECRET,), timeout_s, allow_private=True)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def sandbox_event(team_id: UUID | None = TEAM) -> SandboxEvent:
    """The one event of these tests, which happened long ago."""
    return SandboxEvent(
        delivery_id="1700000000000-0",
        capsule_id=CAPSULE,
        team_id=team_id,
        type="created",
        occurred_at=OCCURRED_AT,
        metadata={"zone": "zürich"},
    )


async def failure_of(sink: Sink) -> DeliveryError:
    """Make an attempt that must fail, and check that nothing secret is in what it raises."""
    async with asyncio.timeout(20):
        with pytest.raises(DeliveryError) as caught:
            await sink.on_sandbox_event(sandbox_event())
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
    for secret in (SECRET, SECRET.removeprefix("whsec_"), PASSWORD, TOKEN, "hook?", ANSWER):
        assert secret not in told
    # Some formatters print a suppressed context all the same.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value
