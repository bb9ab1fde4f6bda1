"""Faust apps in this process, on a real server, as the transport's tests see them."""

from __future__ import annotations

import asyncio
import json
import tempfile
import weakref
from collections.abc import Awaitable
from contextvars import Context, ContextVar
from typing import Any, cast

import faust
import redis.asyncio
from faust.tables import TableManager
from faust.types import EventT
from faust.types.tuples import RecordMetadata
from mode import Seconds

from streams.transport import Consumer, Producer, Settle, StreamConfig, TransportOptions

from .waiting import Received, eventually

__all__ = ["EXPLICIT", "Lab", "LabApp"]

#: A topic of ours whose agent is given batches and settles them itself.
EXPLICIT = StreamConfig(batch=True, settle=Settle.EXPLICIT)

_owner: ContextVar[LabApp | None] = ContextVar("_owner", default=None)


class _Tables(TableManager):
    """There are no tables: Faust's pause of a second for them is not worth a test's time."""

    async def sleep(self, n: Seconds) -> None:
        await super().sleep(0)


class LabApp(faust.App):
    """A Faust app that knows which tasks were started on its behalf."""

    def __init__(self, app_id: str, *, options: TransportOptions, **settings: Any) -> None:
        self.redis_options = options
        defaults: dict[str, Any] = {
            "store": "memory://",
            "web_enabled": False,
            "topic_disable_leader": True,
            "topic_partitions": 2,
            "value_serializer": "raw",
            "key_serializer": "raw",
            "TableManager": _Tables,
        }
        super().__init__(app_id, broker=options.url, **(defaults | settings))
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def stream_topic(
        self, name: str, config: StreamConfig | None = None, *, partitions: int = 1, **kwargs: Any
    ) -> Any:
        """Declare a topic; one with explicit settlement is not acknowledged by Faust."""
        if config is not None:
            kwargs = {"config": config.topic()} | kwargs
            kwargs.setdefault("acks", config.settle is Settle.FAUST)
        return self.topic(name, partitions=partitions, **kwargs)

    def collect(
        self, topic: Any, *, gate: asyncio.Event | None = None, name: str = "agent", **kwargs: Any
    ) -> Received[Any]:
        """Add an agent that notes the values of `topic`, and with each waits for `gate`."""
        received = Received[Any]()

        async def agent(stream: faust.StreamT[Any]) -> None:
            async for value in stream:
                received.add(value)
                if gate is not None:
                    await gate.wait()

        self.agent(topic, name=name, **kwargs)(agent)
        return received

    def collect_events(self, topic: Any, *, name: str = "agent") -> Received[EventT[Any]]:
        """Add an agent that notes the events of `topic`, with key, headers and message."""
        received = Received[EventT[Any]]()

        async def agent(stream: faust.StreamT[Any]) -> None:
            async for event in stream.events():
                received.add(event)

        self.agent(topic, name=name)(agent)
        return received

    @property
    def redis_consumer(self) -> Consumer:
        """The transport's consumer."""
        return cast("Consumer", self.consumer)

    @property
    def redis_producer(self) -> Producer:
        """The transport's producer."""
        return cast("Producer", self.producer)

    def running_tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks started on behalf of this app that have not ended."""
        return [task for task in self.tasks if not task.done()]

    async def within(self, work: Awaitable[Any]) -> Any:
        """Await `work` such that what it starts counts as this app's."""

        async def run() -> Any:
            return await work

        context = Context()
        context.run(_owner.set, self)
        return await asyncio.create_task(run(), context=context)


def _task_factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
    context: Context | None = kwargs.get("context")
    owner = context.get(_owner) if context is not None else _owner.get()
    if owner is not None:
        owner.tasks.add(task)
    return task


class Lab:
    """The apps of one test, and the server as an operator sees it."""

    def __init__(self, url: str, app_id: str) -> None:
        self.url = url
        self.app_id = app_id
        #: Faust makes directories for tables as it starts, whether or not there are any.
        self._directory = tempfile.TemporaryDirectory(prefix="lab-")
        self.redis: redis.asyncio.Redis = redis.asyncio.Redis.from_url(url, client_name="lab")
        self._apps: list[LabApp] = []
        self._gates: list[asyncio.Event] = []

    async def __aenter__(self) -> Lab:
        asyncio.get_running_loop().set_task_factory(cast("Any", _task_factory))
        return self

    async def __aexit__(self, *_: object) -> None:
        for gate in self._gates:
            gate.set()
        for app in reversed(self._apps):
            await self.stop(app)
        await self.redis.aclose()
        self._directory.cleanup()
        asyncio.get_running_loop().set_task_factory(None)

    def gate(self) -> asyncio.Event:
        """Return what agents can be held up with; the end of the test lets them go on."""
        gate = asyncio.Event()
        self._gates.append(gate)
        return gate

    # -- Apps

    def app(self, *, settings: dict[str, Any] | None = None, **options: Any) -> LabApp:
        """Make an app, as one worker has it; `options` are those of the transport."""
        defaults: dict[str, Any] = {
            "url": self.url,
            "worker_name": f"worker-{len(self._apps)}",
            "lease_s": 2.0,
            "drain_timeout_s": 5.0,
            "trim_interval_s": 0.02,
        }
        app = LabApp(
            self.app_id,
            options=TransportOptions(**(defaults | options)),
            datadir=self._directory.name,
            **(settings or {}),
        )
        self._apps.append(app)
        return app

    async def start(self, app: LabApp) -> None:
        """Start `app`; its agents run, its partitions may still be somebody else's."""
        await app.within(app.maybe_start())

    async def start_and_own(self, app: LabApp) -> None:
        """Start `app` and wait until it is the one that reads."""
        await self.start(app)
        await eventually(self.owned_by(app), what="the lease, and a reader's connection")

    def owned_by(self, app: LabApp) -> Any:
        """Return what tells whether `app` has the lease and reads."""

        async def check() -> bool:
            return bool(app.redis_consumer.assignment()) and bool(await self._reads(app))

        return check

    async def _reads(self, app: LabApp) -> bool:
        return bool((await self._descriptions()).get(app.redis_options.worker_name or ""))

    async def _descriptions(self) -> dict[str, str]:
        """The connection that each worker reads over, by its name."""
        members = await self.redis.hvals(self.name("fleet:members"))
        said = [json.loads(member) for member in members]
        return {member["worker"]: member["reader"].partition("/")[2] for member in said}

    async def beats(self, app: LabApp) -> int:
        """How often `app` has said that it is alive."""
        for token, said in (await self.redis.hgetall(self.name("fleet:members"))).items():
            if json.loads(said)["worker"] == app.redis_options.worker_name:
                count: Any = await self.redis.hget(self.name("fleet:beats"), token)
                return int(count)
        return 0

    async def stop(self, app: LabApp) -> None:
        """Stop `app`, if it runs, as its worker does at a signal."""
        if app.started:
            await app.within(app.stop())

    async def crash(self, app: LabApp, *, lease_runs_out: bool = True) -> None:
        """End `app` as a crash of its process would: nothing is finished and nothing told."""
        self._apps.remove(app)
        while tasks := app.running_tasks():
            for task in tasks:
                task.cancel()
            # More than once: the supervisor of an agent starts it again.
            await asyncio.wait(tasks, timeout=0.01)
        await app.redis_consumer._reader.close()
        await app.redis_consumer._client.aclose()
        await app.redis_producer.client.aclose()
        if lease_runs_out:
            await self._remove(app)

    async def reconnect(self) -> None:
        """Dial again, after the server was away."""
        await self.redis.connection_pool.disconnect()

    async def _remove(self, app: LabApp) -> None:
        """Remove a dead worker from the fleet, as the others do when its lease has run out."""
        worker = app.redis_options.worker_name
        for token, said in (await self.redis.hgetall(self.name("fleet:members"))).items():
            if json.loads(said)["worker"] == worker:
                await self.redis.hdel(self.name("fleet:members"), token)
                await self.redis.hdel(self.name("fleet:beats"), token)
                for name, holder in (await self.redis.hgetall(self.name("fleet:owners"))).items():
                    if holder == token:
                        await self.redis.hdel(self.name("fleet:owners"), name)

    async def send(self, topic: Any, **message: Any) -> RecordMetadata:
        """Send one message and return its place."""
        return cast("RecordMetadata", await (await topic.send(**message)))

    # -- The server

    def key(self, topic: str, partition: int = 0) -> str:
        """The stream behind one partition."""
        return f"{{{self.app_id}}}:{topic}:{partition}"

    def name(self, suffix: str) -> str:
        """Another key of the app's."""
        return f"{{{self.app_id}}}:{suffix}"

    async def add(self, key: str, *values: bytes) -> list[bytes]:
        """Append one entry per value, all at once; return their ids."""
        pipeline = self.redis.pipeline(transaction=True)
        for value in values:
            pipeline.xadd(key, {"v": value})
        return cast("list[bytes]", await pipeline.execute())

    async def add_and_lose(self, key: str, *values: bytes) -> list[bytes]:
        """Append entries such that the answer that delivers them to the owner is lost."""
        pipeline = self.redis.pipeline(transaction=True)  # in front of the owner's waiting read
        for value in values:
            pipeline.xadd(key, {"v": value})
        pipeline.xreadgroup(self.app_id, "owner", {key: ">"}, count=len(values))
        *ids, delivered = await pipeline.execute()
        assert [entry_id for entry_id, _ in delivered[0][1]] == ids
        return ids

    async def pending(self, key: str) -> list[bytes]:
        """The ids of what is delivered and not acknowledged."""
        return [entry["message_id"] for entry in await self.pending_details(key)]

    async def pending_details(self, key: str) -> list[dict[str, Any]]:
        """What is delivered and not acknowledged."""
        found = await self.redis.xpending_range(key, self.app_id, "-", "+", 10_000)
        return cast("list[dict[str, Any]]", found)

    async def has_pending(self, key: str, *expected: bytes) -> bool:
        """Whether exactly `expected` is delivered and not acknowledged."""
        return await self.pending(key) == list(expected)

    async def group(self, key: str) -> dict[str, Any]:
        """What the server says about the app's group."""
        groups = await self.redis.xinfo_groups(key)
        return next(group for group in groups if group["name"] == self.app_id.encode())

    async def acknowledged_all(self, key: str) -> bool:
        """Whether everything in the stream was delivered and acknowledged."""
        group = await self.group(key)
        info = await self.redis.xinfo_stream(key)
        return not group["pending"] and group["last-delivered-id"] == info["last-generated-id"]

    async def settled(self, key: str) -> None:
        """Wait until everything in the stream is acknowledged."""
        await eventually(lambda: self.acknowledged_all(key), what=f"{key} acknowledged")

    async def connections(self) -> list[dict[str, str]]:
        """The connections to the server, without the lab's own."""
        clients = await self.redis.client_list()
        return [client for client in clients if client["name"] != "lab"]

    async def reader_id(self) -> int:
        """The connection that the only worker reads over."""
        (reader,) = (await self._descriptions()).values()
        return int(reader)

    async def reader_waits(self) -> bool:
        """Whether the present owner's reader is blocked in a read."""
        reader = await self.redis.client_list(client_id=[str(await self.reader_id())])
        return bool(reader) and "b" in reader[0]["flags"]
