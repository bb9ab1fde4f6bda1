"""Many servers that are one to the app: a cluster, and a primary with its replicas."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from yarl import URL

from config.server_process import LOOPBACK
from streams.transport import BrokerUnavailableError, broker_errors
from streams.transport.connection import connect

from .lab import Lab
from .nodes import ClusterNode, Node, client_of, running, watched_pair
from .session import flow_and_hand_over, send
from .waiting import eventually

#: A failover takes its time.
FAILOVER_S = 30.0


@pytest.fixture
def app_id() -> str:
    return f"app-{uuid.uuid4().hex[:8]}"


# -- Cluster


async def test_an_app_runs_on_a_cluster_as_on_one_server(tmp_path: Path, app_id: str) -> None:
    node = ClusterNode(tmp_path / "n1")
    with running(node):
        await node.take_all_slots()
        async with Lab(node.url(), app_id) as lab:
            await flow_and_hand_over(lab, f"{node.url()}?cluster={{{app_id}}}")


async def test_a_node_that_is_gone_is_not_needed_to_find_the_others(
    tmp_path: Path, app_id: str
) -> None:
    node, dead = ClusterNode(tmp_path / "n1"), ClusterNode(tmp_path / "n2")
    with running(node):
        await node.take_all_slots()
        url = URL(f"redis://{dead.address}?seed={node.address}&cluster={app_id}")
        async with connect(url, timeout_s=5, name="seeded") as client:
            assert await client.set(app_id, "here")


async def test_a_slot_that_moves_to_another_node_is_followed(tmp_path: Path, app_id: str) -> None:
    source, target = ClusterNode(tmp_path / "n1"), ClusterNode(tmp_path / "n2")
    with running(source, target):
        await source.take_all_slots()
        await source.meet(target)
        async with Lab(source.url(), app_id) as lab:
            app = lab.app(url=f"{source.url()}?cluster={{{app_id}}}")
            received = app.collect(app.stream_topic("numbers", partitions=2))
            await lab.start(app)
            stop = asyncio.Event()
            sent = 0

            async def keep_sending() -> None:
                nonlocal sent
                while not stop.is_set():
                    await send(app, "numbers", b"%d" % sent, partition=0)
                    sent += 1

            sending = asyncio.create_task(keep_sending())
            await received.until(50)
            await asyncio.to_thread(move_slot, source, target, app_id)
            before = sent
            await eventually(lambda: sent > before + 50, what="sending goes on")
            stop.set()
            await sending
            # A read whose answer was lost in the move is made again.
            await eventually(lambda: len(set(received.items)) == sent, what="all that was sent")
            assert list(dict.fromkeys(received.items)) == [b"%d" % n for n in range(sent)]
            with client_of(target) as at_target:
                assert at_target.exists(lab.key("numbers"))
                await eventually(
                    partial(nothing_pending, at_target, lab.key("numbers"), app_id),
                    what="all acknowledged at the new node",
                )
            await lab.stop(app)


def move_slot(source: Node, target: Node, app_id: str) -> None:
    """Move an app's slot as an operator's tool does, with the app at work."""
    slot = key_slot(app_id.encode())
    with client_of(source) as at_source, client_of(target) as at_target:
        source_id, target_id = (
            client.execute_command("CLUSTER MYID").decode() for client in (at_source, at_target)
        )
        at_target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
        at_source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
        while keys := at_source.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            at_source.execute_command("MIGRATE", LOOPBACK, target.port, "", 0, 5000, "KEYS", *keys)
        for client in (at_target, at_source):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


# -- Sentinel


async def test_after_a_failover_an_app_goes_on_with_the_new_primary(
    tmp_path: Path, app_id: str
) -> None:
    async with (
        watched_pair(tmp_path) as (primary, replica, sentinel),
        Lab(primary.url(), app_id) as lab,
    ):
        # The user is the servers' own; a Sentinel that does not know it is asked without.
        for node in (primary, replica):
            with client_of(node) as client:
                client.execute_command("ACL SETUSER", "app", "on", ">pass", "~*", "&*", "+@all")
        app = lab.app(url=f"redis://app:pass@{sentinel.address}/0?sentinel=main")
        received = app.collect(app.stream_topic("numbers", partitions=2))
        await lab.start(app)
        await send(app, "numbers", b"before", partition=0)
        await received.until(1)
        stop = asyncio.Event()

        async def keep_sending() -> None:
            while not stop.is_set():
                await send(app, "numbers", b"meanwhile", partition=1)

        sending = asyncio.create_task(keep_sending())
        primary.kill()
        with client_of(replica) as client:
            await eventually(
                lambda: (
                    client.info("replication")["role"] == "master"
                    and sentinel.primary_port() == replica.port
                ),
                what="another primary",
                timeout_s=FAILOVER_S,
            )
            after = [b"after-%d" % n for n in range(20)]
            for n, value in enumerate(after):
                await send(app, "numbers", value, partition=n % 2)
            stop.set()
            await sending
            await eventually(
                lambda: set(after) <= set(received.items),
                what="what was sent after the failover",
                timeout_s=FAILOVER_S,
            )
            for key in (lab.key("numbers", 0), lab.key("numbers", 1)):
                await eventually(
                    partial(nothing_pending, client, key, app_id),
                    what="all acknowledged at the new primary",
                )
        await lab.stop(app)


def nothing_pending(client: Any, key: str, group: str) -> bool:
    return not client.xpending(key, group)["pending"]


async def test_a_connection_that_has_led_to_a_replica_is_not_used_again(tmp_path: Path) -> None:
    node = Node(tmp_path / "n1")
    with running(node), client_of(node) as operator:
        async with connect(URL(node.url()), timeout_s=5, name="demoted") as client:
            await client.set("k", "v")
            before = await client.client_id()
            assert await client.client_id() == before
            operator.execute_command("REPLICAOF", "127.0.0.1", node.port + 1)
            with pytest.raises(BrokerUnavailableError), broker_errors("SET"):
                await client.set("k", "w")
            assert await client.client_id() != before
