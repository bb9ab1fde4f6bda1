"""Servers of a test's own: nodes of a cluster, a primary with its replica and Sentinel, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import redis

from config.server_process import LOOPBACK, free_port
from config.valkey_server import ValkeyServer

from .waiting import eventually

__all__ = [
    "Certificates",
    "ClusterNode",
    "Node",
    "SentinelNode",
    "client_of",
    "running",
    "serve_tls",
    "watched_pair",
]


#: A Sentinel looks once a second at least, and at some things every ten.
_SENTINEL_S = 30.0


class Node(ValkeyServer):
    """A Valkey with more options than the embedded one has."""

    def __init__(self, directory: Path, *options: str) -> None:
        (directory / "data").mkdir(parents=True)
        super().__init__(directory / "data", free_port(), fsync=False)
        self._options = options

    def _command(self) -> list[str]:
        return [*super()._command(), *self._options]

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"


class SentinelNode(Node):
    """A Sentinel that watches `primary` under the name ``main``."""

    def __init__(self, directory: Path, primary: Node) -> None:
        super().__init__(directory)
        self._config = directory / "sentinel.conf"
        self._config.write_text(
            f"port {self.port}\n"
            f"bind {LOOPBACK}\n"
            f"dir {self.directory}\n"
            f"sentinel monitor main {LOOPBACK} {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 1000\n"
        )

    def _command(self) -> list[str]:
        return [super()._command()[0], str(self._config), "--sentinel"]

    def is_ready(self) -> bool:
        with client_of(self) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def replicas(self) -> list[dict[str, Any]]:
        """What this Sentinel knows of the replicas."""
        with client_of(self) as client:
            found: list[dict[str, Any]] = client.sentinel_slaves("main")
            return found

    def primary_port(self) -> int:
        """Where this Sentinel says that the primary is."""
        with client_of(self) as client:
            return int(client.sentinel_get_master_addr_by_name("main")[1])


@contextlib.contextmanager
def client_of(node: Node) -> Iterator[Any]:
    """Give a client for one node, whatever it is part of."""
    with closing(redis.Redis(host=LOOPBACK, port=node.port, socket_timeout=5)) as client:
        yield client


class ClusterNode(Node):
    """A node of a cluster, without slots at first."""

    def __init__(self, directory: Path) -> None:
        self.bus_port = free_port()
        super().__init__(
            directory,
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
            *("--cluster-port", str(self.bus_port)),
        )

    async def take_all_slots(self) -> None:
        """Be the master of all slots."""
        with client_of(self) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            await eventually(
                lambda: client.cluster("INFO")["cluster_state"] == "ok", what="a cluster"
            )

    async def meet(self, other: ClusterNode) -> None:
        """Make one cluster of this one and `other`."""
        with client_of(self) as client, client_of(other) as at_other:
            client.execute_command("CLUSTER MEET", LOOPBACK, other.port, other.bus_port)
            await eventually(
                lambda: at_other.cluster("INFO")["cluster_state"] == "ok", what="one cluster"
            )


@contextlib.contextmanager
def running(*nodes: Node) -> Iterator[None]:
    """Have `nodes` run."""
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            node.kill()


@contextlib.asynccontextmanager
async def watched_pair(directory: Path) -> AsyncIterator[tuple[Node, Node, SentinelNode]]:
    """Have a primary run, its replica, and the Sentinel that watches them."""
    primary, replica = Node(directory / "primary"), Node(directory / "replica")
    with running(primary, replica), client_of(replica) as at_replica:
        at_replica.execute_command("REPLICAOF", LOOPBACK, primary.port)
        await eventually(
            lambda: at_replica.info("replication")["master_link_status"] == "up",
            what="a replica",
            timeout_s=_SENTINEL_S,
        )
        sentinel = SentinelNode(directory / "sentinel", primary)
        with running(sentinel):
            await eventually(
                lambda: [found["master-link-status"] for found in sentinel.replicas()] == ["ok"],
                what="a replica that the Sentinel knows",
                timeout_s=_SENTINEL_S,
            )
            yield primary, replica, sentinel


class Certificates:
    """An authority, and what it has signed: a server at the loopback address, and a client."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=authority"),
            *("-keyout", "ca.key", "-out", "ca.crt", "-days", "2"),
        )
        for name in ("server", "client"):
            (directory / f"{name}.ext").write_text(f"subjectAltName=IP:{LOOPBACK}\n")
            self._openssl(
                *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
                *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
            )
            self._openssl(
                *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
                *("-CAcreateserial", "-out", f"{name}.crt", "-days", "2"),
                *("-extfile", f"{name}.ext"),
            )

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=self._directory, check=True, capture_output=True
        )

    def path(self, name: str) -> Path:
        """One of the files: ``ca.crt``, ``server.key``, ``client.crt``, ..."""
        return self._directory / name

    def server_context(self) -> ssl.SSLContext:
        """TLS as the server speaks it: to clients with a certificate of the authority only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.crt"), self.path("server.key"))
        context.load_verify_locations(self.path("ca.crt"))
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@contextlib.asynccontextmanager
async def serve_tls(node: Node, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Speak TLS for `node`, which cannot; gives the port."""
    under_way: set[asyncio.Task[Any]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        upstream, downstream = await asyncio.open_connection(LOOPBACK, node.port)
        writers.update((writer, downstream))
        await asyncio.gather(copy(reader, downstream), copy(upstream, writer))
        for end in (writer, downstream):
            with contextlib.suppress(OSError):
                await end.wait_closed()
        writers.difference_update((writer, downstream))
        under_way.discard(task)

    server = await asyncio.start_server(serve, LOOPBACK, 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        if under_way:
            await asyncio.wait(under_way)
        await server.wait_closed()
