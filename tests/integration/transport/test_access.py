"""How an app is let in: over TLS, and as a user with no more rights than it needs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from yarl import URL

from config.urls import check_redis_url
from streams.transport import Record, Settle, StreamConfig, servers
from streams.transport.connection import connect
from streams.transport.errors import BrokerRefusedError, BrokerUnavailableError, broker_errors

from .lab import EXPLICIT, Lab
from .nodes import Certificates, Node, client_of, running, serve_tls
from .session import flow_and_hand_over
from .waiting import eventually

PASSWORD = "p/w@1,2"


@pytest.fixture
def app_id() -> str:
    return f"app-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def node(tmp_path: Path, app_id: str) -> Iterator[Node]:
    """A server where nobody is let in but the app, with the rights that the documentation says."""
    node = Node(tmp_path / "n1")
    with running(node):
        rule = documented_rule().replace("{tag}", f"{{{app_id}}}").replace("~tag", f"~{app_id}")
        with client_of(node) as client:
            client.execute_command("ACL SETUSER", "app", "on", f">{PASSWORD}", *rule.split())
        yield node


def documented_rule() -> str:
    """The least rights, as the documentation has them."""
    assert servers.__doc__ is not None
    indented = re.search(r"``ACL SETUSER``::\n\n((?:    .*\n)+)", servers.__doc__)
    assert indented is not None
    return indented[1]


def refusals(node: Node) -> list[str]:
    """What the user was not allowed to do."""
    with client_of(node) as client:
        return [f"{entry['reason']}: {entry['object']}" for entry in client.acl_log()]


async def test_the_documented_rights_are_all_that_an_app_needs(node: Node, app_id: str) -> None:
    async with Lab(node.url(), app_id) as lab:
        await flow_and_hand_over(lab, url_of(node))
    assert refusals(node) == []


async def test_the_documented_rights_are_enough_to_take_over_from_another_consumer(
    node: Node, app_id: str
) -> None:
    async with Lab(node.url(), app_id) as lab:
        ids = await lab.add(app_id, b"1", b"2")  # the source's key is the tag itself
        await lab.redis.xgroup_create(app_id, app_id, id="0")
        await lab.redis.xreadgroup(app_id, "another", {app_id: ">"}, count=1)
        app = lab.app(url=url_of(node))
        config = StreamConfig(
            external_key=app_id, batch=EXPLICIT.batch, settle=EXPLICIT.settle, claim_idle_ms=10
        )
        received = app.collect(app.stream_topic("source", config))
        await lab.start(app)
        batches = await received.until(1)
        await eventually(lambda: sum(map(len, received.items)) == len(ids), what="both entries")
        for batch in batches:
            app.redis_consumer.settle(batch)
        await lab.settled(app_id)
        await lab.stop(app)
    assert refusals(node) == []


async def test_the_documented_rights_are_enough_for_messages_that_share_entries(
    node: Node, app_id: str
) -> None:
    bundles = StreamConfig(batch=True, settle=Settle.EXPLICIT, bundle_max=8)
    async with Lab(node.url(), app_id) as lab:
        app = lab.app(url=url_of(node))
        received = app.collect(app.stream_topic("t", bundles))
        await lab.start_and_own(app)
        await app.redis_producer.send_many(["t"], [Record(b"v") for _ in range(8)])
        await eventually(lambda: sum(map(len, received.items)) == 8, what="all messages")
        first, *rest = [entry for batch in received.items for entry in batch]
        app.redis_consumer.settle([first])

        async def is_noted() -> bool:
            return bool(await lab.redis.exists(lab.name("parts:t:0")))

        await eventually(is_noted, what="the note")
        app.redis_consumer.settle(rest)
        await lab.settled(lab.key("t"))
        await lab.stop(app)
    assert refusals(node) == []


async def test_what_the_documented_rights_leave_out_is_refused(node: Node, app_id: str) -> None:
    async with connect(URL(url_of(node)), timeout_s=5, name="curious") as client:
        for command in (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("GET", app_id)):
            with pytest.raises(BrokerRefusedError), broker_errors(command[0]):
                await client.execute_command(*command)
        with pytest.raises(BrokerRefusedError), broker_errors("XADD"):
            await client.xadd("another", {"v": "1"})


def url_of(node: Node) -> str:
    return f"redis://app:{quote(PASSWORD, safe='')}@{node.address}/0"


# -- TLS. The tests' Valkey is built without; what speaks it here is in front of it.


async def test_an_app_runs_over_tls_with_certificates_on_both_sides(
    node: Node, tmp_path: Path, app_id: str
) -> None:
    certificates = Certificates(tmp_path / "certificates")
    async with (
        serve_tls(node, certificates.server_context()) as port,
        Lab(node.url(), app_id) as lab,
    ):
        url = tls_url(port, certificates)
        assert check_redis_url(url) == url
        await flow_and_hand_over(lab, url)
    assert refusals(node) == []


@pytest.mark.parametrize("authority", ["system", "other"])
async def test_a_server_whose_certificate_is_not_trusted_is_not_talked_to(
    node: Node, tmp_path: Path, authority: str
) -> None:
    certificates = Certificates(tmp_path / "certificates")
    async with serve_tls(node, certificates.server_context()) as port:
        if authority == "other":
            others = Certificates(tmp_path / "others")
            given = URL(tls_url(port, others))
        else:
            given = URL(f"rediss://127.0.0.1:{port}")
        async with connect(given, timeout_s=5, name="careful") as client:
            with pytest.raises(BrokerUnavailableError) as caught, broker_errors("INFO"):
                await client.execute_command("INFO")
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)


def tls_url(port: int, certificates: Certificates) -> str:
    """The URL of the app's user, with the files of `certificates`."""
    return (
        f"rediss://app:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0"
        f"?ssl_ca_certs={certificates.path('ca.crt')}"
        f"&ssl_certfile={certificates.path('client.crt')}"
        f"&ssl_keyfile={certificates.path('client.key')}"
    )
