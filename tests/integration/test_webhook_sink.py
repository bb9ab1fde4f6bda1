"""What the webhook sink sends, and what it takes for delivered, against a real HTTP server."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from time import time

import orjson
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from agents.hooks import WebhookSink
from agents.hooks.webhook import MAX_RESPONSE_BYTES
from streams.ids import format_capsule_id, format_team_id
from tests.integration.webhook_receiver import (
    CAPSULE,
    NEXT_SECRET,
    PASSWORD,
    SECRET,
    TEAM,
    TOKEN,
    Receiver,
    answering,
    failure_of,
    opened_sink,
    running_receiver,
    sandbox_event,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


@pytest.fixture
async def sink(receiver: Receiver) -> AsyncIterator[WebhookSink]:
    async with opened_sink(receiver.url()) as sink:
        yield sink


async def test_the_body_says_what_happened(receiver: Receiver, sink: WebhookSink) -> None:
    await sink.on_sandbox_event(sandbox_event())

    (request,) = receiver.received
    assert orjson.loads(request.body) == {
        "type": "capsule.created",
        "timestamp": "2024-05-06T07:08:09Z",
        "data": {
            "capsule_id": format_capsule_id(CAPSULE),
            "team_id": format_team_id(TEAM),
            "metadata": {"zone": "zürich"},
        },
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "capsule-reconciler"
    userinfo = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    assert request.headers["authorization"] == f"Basic {userinfo}"


async def test_an_absent_team_is_null(receiver: Receiver, sink: WebhookSink) -> None:
    await sink.on_sandbox_event(sandbox_event(team_id=None))

    assert orjson.loads(receiver.received[0].body)["data"]["team_id"] is None


async def test_a_receiver_can_verify_the_signature_over_the_raw_bytes(
    receiver: Receiver, sink: WebhookSink
) -> None:
    await sink.on_sandbox_event(sandbox_event())

    (request,) = receiver.received
    Webhook(SECRET).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEXT_SECRET).verify(request.body, request.headers)


async def test_with_two_secrets_a_receiver_that_knows_either_can_verify(
    receiver: Receiver,
) -> None:
    async with opened_sink(receiver.url(), SECRET, NEXT_SECRET) as sink:
        await sink.on_sandbox_event(sandbox_event())

    (request,) = receiver.received
    Webhook(SECRET).verify(request.body, request.headers)
    Webhook(NEXT_SECRET).verify(request.body, request.headers)


async def test_every_attempt_has_the_same_id_and_its_own_time(
    receiver: Receiver, sink: WebhookSink
) -> None:
    before = int(time())
    receiver.answer = answering(500)
    await failure_of(sink)
    receiver.answer = answering(200)
    await sink.on_sandbox_event(sandbox_event())

    assert [r.headers["webhook-id"] for r in receiver.received] == ["1700000000000-0"] * 2
    for request in receiver.received:
        assert before <= int(request.headers["webhook-timestamp"]) <= time()


async def test_attempts_share_a_connection_even_if_the_sink_is_opened_twice(
    receiver: Receiver, sink: WebhookSink
) -> None:
    async def answer_in_pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"piece")
            # Lets the client on the same loop see the headers before the body is complete.
            await asyncio.sleep(0)
        return response

    receiver.answer = answer_in_pieces
    for _ in range(3):
        await sink.on_sandbox_event(sandbox_event())
        await sink.open()

    assert len(receiver.received) == 3
    assert len(receiver.connections) == 1


async def test_no_attempt_waits_for_another(receiver: Receiver, sink: WebhookSink) -> None:
    at_once = 120  # more than the 100 connections that aiohttp's pool has by default
    all_here = asyncio.Event()

    async def answer_when_all_are_here(_request: web.Request) -> web.Response:
        if len(receiver.received) == at_once:
            all_here.set()
        await all_here.wait()
        return web.Response(status=204)

    receiver.answer = answer_when_all_are_here
    async with asyncio.timeout(20), asyncio.TaskGroup() as attempts:
        for _ in range(at_once):
            attempts.create_task(sink.on_sandbox_event(sandbox_event()))


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_delivered(receiver: Receiver, sink: WebhookSink, status: int) -> None:
    receiver.answer = answering(status)

    await sink.on_sandbox_event(sandbox_event())


async def test_a_body_that_never_ends_does_not_undo_a_2xx(receiver: Receiver) -> None:
    async def hang_in_the_body(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await receiver.over.wait()
        return response

    receiver.answer = hang_in_the_body
    async with opened_sink(receiver.url(), timeout_s=0.5) as sink, asyncio.timeout(20):
        await sink.on_sandbox_event(sandbox_event())


async def test_a_huge_body_is_not_read_to_its_end(receiver: Receiver, sink: WebhookSink) -> None:
    huge = 256 * 1024 * 1024
    sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        total = 0
        try:
            while total < huge:
                await response.write(bytes(1024 * 1024))
                total += 1024 * 1024
        except ConnectionError:
            pass
        sent.set_result(total)
        return response

    receiver.answer = flood
    await sink.on_sandbox_event(sandbox_event())

    # What the sockets' buffers took is sent as well; they hold a few MiB.
    assert await asyncio.wait_for(sent, 20) < huge / 4


async def test_a_compressed_body_is_not_unpacked(receiver: Receiver, sink: WebhookSink) -> None:
    packed = gzip.compress(bytes(32 * 1024 * 1024))
    assert len(packed) < MAX_RESPONSE_BYTES

    async def bomb(_request: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    receiver.answer = bomb
    await sink.on_sandbox_event(sandbox_event())
    await sink.on_sandbox_event(sandbox_event())

    # Unpacked it would be over the limit, which costs the connection.
    assert len(receiver.connections) == 1


async def test_the_proxy_environment_is_ignored(
    sink: WebhookSink, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    await sink.on_sandbox_event(sandbox_event())


async def test_cookies_of_one_answer_are_not_sent_with_the_next_attempt(
    receiver: Receiver,
) -> None:
    # By name: aiohttp's usual jar would not keep the cookies of an IP address anyway.
    url = receiver.url().replace("127.0.0.1", "localhost")
    receiver.answer = answering(200, Set_Cookie="session=1")
    async with opened_sink(url) as sink:
        await sink.on_sandbox_event(sandbox_event())
        await sink.on_sandbox_event(sandbox_event())

    assert ["cookie" in r.headers for r in receiver.received] == [False, False]


async def test_a_closed_sink_refuses_and_can_be_opened_again(
    receiver: Receiver, sink: WebhookSink
) -> None:
    await sink.close()
    await sink.close()
    with pytest.raises(RuntimeError, match="not open"):
        await sink.on_sandbox_event(sandbox_event())
    assert receiver.received == []

    await sink.open()
    await sink.on_sandbox_event(sandbox_event())
    assert len(receiver.received) == 1


async def test_repr_shows_the_origin_and_nothing_secret(sink: WebhookSink) -> None:
    assert repr(sink).startswith("WebhookSink(name='billing', origin='http://127.0.0.1:")
    for secret in (SECRET, PASSWORD, TOKEN, "/hook"):
        assert secret not in repr(sink)


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), SECRET.rstrip("=")])
async def test_a_secret_may_come_without_prefix_or_padding_and_with_a_line_end(
    receiver: Receiver, secret: str
) -> None:
    async with opened_sink(receiver.url(), secret + "\n") as sink:
        await sink.on_sandbox_event(sandbox_event())

    (request,) = receiver.received
    Webhook(SECRET).verify(request.body, request.headers)
