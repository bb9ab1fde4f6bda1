"""One worker between its servers and its sink, while something goes wrong and comes right again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from config.embedded import EphemeralServers
from tests.event_log import EventLog, generate
from tests.faults.account import assert_accounted, settled
from tests.faults.proxy import Proxy, proxy_to
from tests.integration.watching import WatchedWorker
from tests.reconciliation import Ground, Receiver
from tests.worker_process import eventually

__all__ = ["LOG", "SMALL", "FaultyReceiver", "Scene", "hold_scene"]

#: A worker has to say what is wrong within this time.
SAYS_WITHIN_S = 10.0

#: Small batches, so that each step comes many times; limits that a fault soon reaches.
SMALL = {
    "CAPSULES_PARTITIONS": "4",
    "CAPSULES_FETCH_COUNT": "60",
    "CAPSULES_PREFETCH_ENTRIES": "240",
    "CAPSULES_LANE_BATCH_MAX": "20",
    "CAPSULES_REDIS_TIMEOUT_S": "1",
    "CAPSULES_READ_BLOCK_MS": "500",
    "CAPSULES_LOCK_TIMEOUT_MS": "300",
    "CAPSULES_STATEMENT_TIMEOUT_MS": "600",
    "CAPSULES_POSTGRES_CONNECT_TIMEOUT_S": "2",
}

LOG: EventLog = generate(71, events=600, capsules=40)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class FaultyReceiver(Receiver):
    """A receiver that answers as a test says, and notes only what it takes."""

    #: Answers in place of taking the delivery; None: take it.
    answer: Answer | None = None

    def settings(self) -> dict[str, str]:
        """The setting that has a worker deliver here, with little patience."""
        (sink,) = json.loads(super().settings()["CAPSULES_SINKS"])
        return {"CAPSULES_SINKS": json.dumps([sink | {"timeout_s": 1}])}

    async def stop_listening(self) -> None:
        """Have connections refused."""
        await self.__aexit__()

    async def listen_again(self) -> None:
        """Listen where it did before."""
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def _take(self, request: web.Request) -> web.Response:
        if self.answer is not None:
            answer = await self.answer(request)
            if answer is not None:
                return answer  # type: ignore[return-value]
        return await super()._take(request)


@dataclass
class Scene:
    """What a fault is done to."""

    servers: EphemeralServers
    ground: Ground
    receiver: FaultyReceiver
    worker: WatchedWorker
    ready_file: Path
    redis_proxy: Proxy
    postgres_proxy: Proxy
    log: EventLog = field(default_factory=lambda: LOG)
    published: int = 0

    def publish(self, entries: int | None = None) -> None:
        """Append the next `entries` of the log, or all that are left."""
        end = len(self.log.entries) if entries is None else self.published + entries
        self.ground.publish(self.log.entries[self.published : end])
        self.published = min(end, len(self.log.entries))

    @contextlib.contextmanager
    def frozen_worker(self) -> Iterator[None]:
        """Have the worker frozen, for much less than a lease: it is not to be the quicker one."""
        self.worker.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.worker.signal(signal.SIGCONT)

    async def all_done(self) -> None:
        """Wait until nothing is left to do."""
        await eventually(self._settled, what=f"all done:\n{self.worker.tail()}", timeout_s=40)

    def _settled(self) -> bool:
        assert self.worker.process.poll() is None, self.worker.tail()
        return settled(self.ground)

    def said(self) -> Counter[str]:
        """How often the worker has said each action so far."""
        return Counter(record.get("action", "") for record in self.worker.records())

    async def says(self, action: str, since: Counter[str]) -> None:
        """Wait until the worker has said `action` once more than it had."""
        await eventually(
            lambda: self.said()[action] > since[action],
            what=f"log line {action}",
            timeout_s=SAYS_WITHIN_S,
        )

    async def is_ready(self, *, expected: bool = True) -> None:
        """Wait until the worker says that it is ready, or that it is not."""
        await eventually(
            lambda: self.ready_file.exists() is expected,
            what=f"ready is {expected}:\n{self.worker.tail()}",
            # A worker may have to start first.
            timeout_s=3 * SAYS_WITHIN_S if expected else SAYS_WITHIN_S,
        )

    async def close_account(
        self, *, lost: Collection[str] = (), lost_deliveries: Collection[str] = ()
    ) -> Counter[str]:
        """Stop the worker, and account for each entry."""
        assert await self.worker.stop() == 0, self.worker.tail()
        return assert_accounted(
            self.ground, self.log, self.receiver, lost=lost, lost_deliveries=lost_deliveries
        )


@contextlib.asynccontextmanager
async def hold_scene(
    servers: EphemeralServers,
    ground: Ground,
    directory: Path,
    *,
    settings: Mapping[str, str] | None = None,
    redis_user: str = "",
    start: bool = True,
) -> AsyncIterator[Scene]:
    """Have a worker at work, with proxies in front of both servers, and a part of it all done."""
    ready_file = directory / "ready"
    async with FaultyReceiver() as receiver:
        with (
            proxy_to(servers.redis.port) as redis_proxy,
            proxy_to(servers.postgres.port) as postgres_proxy,
        ):
            environ: dict[str, Any] = ground.settings(**receiver.settings()) | SMALL
            for name, port, proxy in (
                ("REDIS_URL", servers.redis.port, redis_proxy),
                ("DATABASE_URL", servers.postgres.port, postgres_proxy),
            ):
                environ[name] = environ[name].replace(f":{port}/", f":{proxy.port}/")
            environ["REDIS_URL"] = environ["REDIS_URL"].replace("//", f"//{redis_user}")
            environ |= {"CAPSULES_READY_FILE": str(ready_file)} | dict(settings or {})
            await asyncio.to_thread(ground.load, LOG.rows)
            worker = WatchedWorker(directory / "worker", **environ)
            scene = Scene(
                servers, ground, receiver, worker, ready_file, redis_proxy, postgres_proxy
            )
            try:
                if start:
                    scene.publish(len(LOG.entries) // 3)
                    await scene.is_ready()
                    await scene.all_done()
                yield scene
            finally:
                if worker.process.poll() is None:
                    worker.kill()
