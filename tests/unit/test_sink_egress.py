"""A webhook's address leads out, whatever its name says: judged on what is dialled."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from agents.hooks import WebhookSink
from agents.hooks.egress import REFUSED, is_public
from streams.errors import DeliveryError, DeliveryRefusedError
from tests.integration.webhook_receiver import SECRET, sandbox_event

PUBLIC = "93.184.216.34"


class _Dialled:
    """What this process tries to connect to by TCP, as the interpreter itself reports it."""

    def __init__(self) -> None:
        self.watching = False
        self.addresses: list[str] = []

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if event != "socket.connect" or not self.watching:
            return
        _, address = arguments
        assert isinstance(address, tuple)
        self.addresses.append(address[0])
        if address[0] == PUBLIC:  # nothing is sent out of the tests
            raise OSError(errno.ENETUNREACH, "unreachable")


_dialled = _Dialled()
sys.addaudithook(_dialled.hook)


@pytest.fixture
def dialled() -> Iterator[list[str]]:
    _dialled.addresses.clear()
    _dialled.watching = True
    yield _dialled.addresses
    _dialled.watching = False


class _Names(AbstractResolver):
    """Answers each question for a name with the next of these lists of addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answer = self._answers.pop(0)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in answer
        ]

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[object]]]:
    """A port on each loopback address, and who connected to it."""
    connected: list[object] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield port, connected


async def attempt(
    host: str, resolver: AbstractResolver | None = None, *, port: int = 80
) -> DeliveryError:
    sink = WebhookSink(
        "billing", f"http://{host}:{port}/hook", (SECRET,), timeout_s=5.0, resolver=resolver
    )
    await sink.open()
    try:
        with pytest.raises(DeliveryError) as caught:
            await sink.on_sandbox_event(sandbox_event())
    finally:
        await sink.close()
    return caught.value


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1"),
        "0.0.0.0",  # noqa: S104 - another way to write loopback
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255"),
        *("[::1]", "[::]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]", "[fe80::1]"),
        *("[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[::127.0.0.1]"),
    ],
)
async def test_an_address_inside_is_refused_before_anything_is_dialled(
    host: str, dialled: list[str]
) -> None:
    failure = await attempt(host)

    assert failure.reason == REFUSED
    assert not isinstance(failure, DeliveryRefusedError)
    assert dialled == []


async def test_a_name_that_resolves_to_loopback_is_refused_and_nobody_connects() -> None:
    async with listening() as (port, connected):
        failure = await attempt("localhost", ThreadedResolver(), port=port)
        assert connected == []
    assert failure.reason == REFUSED


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1%1"]
)
async def test_what_a_name_resolves_to_is_judged_and_not_the_name(
    address: str, dialled: list[str]
) -> None:
    failure = await attempt("billing.example.com", _Names([address]))

    assert failure.reason == REFUSED
    assert dialled == []


async def test_of_a_name_with_both_only_the_public_address_is_dialled(dialled: list[str]) -> None:
    await attempt("billing.example.com", _Names(["127.0.0.1", PUBLIC, "::1"]))

    assert set(dialled) == {PUBLIC}


async def test_a_name_that_is_rebound_between_two_attempts_is_refused_the_second_time(
    dialled: list[str],
) -> None:
    names = _Names([PUBLIC], ["127.0.0.1"])

    first = await attempt("billing.example.com", names)
    second = await attempt("billing.example.com", names)

    assert (first.reason, second.reason) == ("ClientConnectorError", REFUSED)
    assert set(dialled) == {PUBLIC}


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
async def test_no_odd_way_to_write_loopback_gets_through(host: str, dialled: list[str]) -> None:
    await attempt(host)

    assert dialled == []


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", PUBLIC, "::ffff:1.1.1.1"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)
