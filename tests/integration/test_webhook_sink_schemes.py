"""The control plane's own signature, and how a secret is changed under both schemes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from multidict import CIMultiDictProxy

from agents.hooks import WebhookSink
from tests.integration.webhook_receiver import (
    Receiver,
    answering,
    failure_of,
    running_receiver,
    sandbox_event,
)

OLD, NEW = "the channel's secret", "the channel's next secret"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


def signed(secret: str, timestamp: str, body: bytes) -> str:
    """What a receiver computes, from the description of the scheme alone."""
    message = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


async def deliver(receiver: Receiver, *secrets: str) -> None:
    sink = WebhookSink("w", receiver.url(), secrets, scheme="wrenn", allow_private=True)
    await sink.open()
    await sink.on_sandbox_event(sandbox_event())
    await sink.close()


async def test_the_control_planes_signature_is_over_timestamp_and_body(receiver: Receiver) -> None:
    await deliver(receiver, OLD)

    (request,) = receiver.received
    timestamp = request.headers["x-wrenn-timestamp"]
    assert request.headers["x-wrenn-signature"] == signed(OLD, timestamp, request.body)
    assert request.headers["x-wrenn-signature"] != signed(NEW, timestamp, request.body)
    assert request.headers["x-wrenn-signature"] != signed(OLD, timestamp, request.body + b" ")
    sent_at = datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - sent_at) < timedelta(seconds=60)
    assert "webhook-id" not in request.headers


async def test_each_attempt_has_the_same_delivery_id(receiver: Receiver) -> None:
    receiver.answer = answering(500)
    sink = WebhookSink("w", receiver.url(), (OLD,), scheme="wrenn", allow_private=True)
    await sink.open()
    await failure_of(sink)
    receiver.answer = answering(200)
    await sink.on_sandbox_event(sandbox_event())
    await sink.close()

    ids = [request.headers["x-wrenn-delivery"] for request in receiver.received]
    assert ids == [sandbox_event().delivery_id] * 2


async def test_with_two_secrets_the_first_line_is_still_by_the_one_in_use(
    receiver: Receiver,
) -> None:
    seen: list[CIMultiDictProxy[str]] = []
    original = receiver.answer

    async def look(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers)
        return await original(request)

    receiver.answer = look
    await deliver(receiver, OLD, NEW)

    (headers,), (request,) = seen, receiver.received
    timestamp = headers["X-Wrenn-Timestamp"]
    lines = headers.getall("X-WRENN-SIGNATURE")
    assert lines == [signed(key, timestamp, request.body) for key in (OLD, NEW)]
