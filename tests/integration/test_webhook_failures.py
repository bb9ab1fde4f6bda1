"""What the webhook sink makes of a receiver that fails: the reason, the wait, no secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from agents.hooks import WebhookSink
from streams.errors import DeliveryRefusedError
from tests.integration.webhook_receiver import (
    ANSWER,
    Receiver,
    answering,
    failure_of,
    opened_sink,
    running_receiver,
    sandbox_event,
    webhook_url,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


@pytest.fixture
async def sink(receiver: Receiver) -> AsyncIterator[WebhookSink]:
    async with opened_sink(receiver.url()) as sink:
        yield sink


def _hanging(receiver: Receiver) -> asyncio.Event:
    """Make the receiver answer nothing; the event says that a request is there."""
    arrived = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        arrived.set()
        await receiver.over.wait()
        return web.Response()

    receiver.answer = hang
    return arrived


@pytest.mark.parametrize("status", [300, 400, 401, 404, 410, 500, 502])
async def test_any_other_status_is_a_failure_that_names_it(
    receiver: Receiver, sink: WebhookSink, status: int
) -> None:
    receiver.answer = answering(status, Retry_After="7")

    failure = await failure_of(sink)

    assert failure.reason == f"HTTP {status}"
    assert failure.retry_after_s is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 415, 422])
async def test_a_delivery_at_fault_itself_is_refused_for_good(
    receiver: Receiver, sink: WebhookSink, status: int
) -> None:
    receiver.answer = answering(status)

    assert isinstance(await failure_of(sink), DeliveryRefusedError)


@pytest.mark.parametrize("status", [302, 408, 409, 423, 425, 429, 500, 502, 503, 504])
async def test_an_answer_of_not_now_is_not_for_good(
    receiver: Receiver, sink: WebhookSink, status: int
) -> None:
    receiver.answer = answering(status)

    assert not isinstance(await failure_of(sink), DeliveryRefusedError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(
    receiver: Receiver, sink: WebhookSink, status: int
) -> None:
    receiver.answer = answering(status, Location="/elsewhere")

    failure = await failure_of(sink)

    assert failure.reason == f"HTTP {status}"
    assert [r.path for r in receiver.received] == ["/hook"]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("9" * 5000, None),
        ("inf", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +" + "9" * 40, None),
    ],
)
async def test_retry_after_is_passed_on_where_it_makes_sense(
    receiver: Receiver, sink: WebhookSink, status: int, header: str, expected: float | None
) -> None:
    receiver.answer = answering(status, Retry_After=header)

    failure = await failure_of(sink)

    assert failure.reason == f"HTTP {status}"
    assert failure.retry_after_s == expected


async def test_retry_after_may_be_a_date(receiver: Receiver, sink: WebhookSink) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    receiver.answer = answering(503, Retry_After=until)

    failure = await failure_of(sink)

    assert failure.retry_after_s == pytest.approx(600, abs=30)


async def test_a_receiver_that_never_answers_times_out(receiver: Receiver) -> None:
    _hanging(receiver)
    async with opened_sink(receiver.url(), timeout_s=0.2) as sink:
        failure = await failure_of(sink)

    assert failure.reason == "TimeoutError"


async def test_closing_the_sink_fails_the_attempts_under_way(
    receiver: Receiver, sink: WebhookSink
) -> None:
    arrived = _hanging(receiver)
    attempt = asyncio.create_task(failure_of(sink))
    await arrived.wait()

    await sink.close()

    assert (await attempt).reason.startswith(("Client", "Server"))


async def test_a_cancelled_attempt_is_cancelled_and_not_a_failed_delivery(
    receiver: Receiver, sink: WebhookSink
) -> None:
    arrived = _hanging(receiver)
    attempt = asyncio.create_task(sink.on_sandbox_event(sandbox_event()))
    await arrived.wait()

    attempt.cancel()

    with pytest.raises(asyncio.CancelledError):
        await attempt


async def test_a_refused_connection_is_a_failure(unused_tcp_port: int) -> None:
    async with opened_sink(webhook_url(unused_tcp_port)) as sink:
        failure = await failure_of(sink)

    assert failure.reason == "ClientConnectorError"


async def test_a_receiver_that_does_not_speak_http_is_a_failure() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with opened_sink(webhook_url(port)) as sink:
        failure = await failure_of(sink)
    server.close()
    await server.wait_closed()

    assert failure.reason == "ClientResponseError"


async def test_the_answer_is_not_logged(
    receiver: Receiver,
    sink: WebhookSink,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answer = answering(500)

    await failure_of(sink)

    printed = capsys.readouterr()
    assert ANSWER not in caplog.text + printed.out + printed.err
