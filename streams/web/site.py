"""What the views of one worker share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

import jinja2
from aiohttp import web

from config.settings import Settings
from streams.commands.flow_order import in_flow_order
from streams.figures.live import LiveTopology, read_live
from streams.postgres import Postgres
from streams.printable import printable
from streams.sinks.deliveries import Wanted
from streams.topology import Topology, topology_of
from streams.transport import Producer, StreamLayout
from streams.web.access import Access
from streams.web.capsule import History, read_history
from streams.web.deliveries import SinkDelivery, of_sink
from streams.web.frame import Sink, sinks_of
from streams.web.watch import Watch

if TYPE_CHECKING:
    from streams.app import ReconcilerApp
    from streams.figures.fleet import Figures
    from streams.operations.health import Health

__all__ = ["SITE", "BusyError", "Site"]

T = TypeVar("T")

#: Orders and lists of dead letters that use Postgres at the same time, each in a thread.
_THREADS: Final = 3
_WAITING_MAX: Final = 20
#: Not the worker's own connections: what is slow here must not be slow there.
_POOL_SIZE: Final = 2
#: How old what is known of the servers may be.
_PROBED_S: Final = 3.0


class BusyError(Exception):
    """So much is asked of the page that no more can be answered now."""


class Site:
    """The page of one worker."""

    def __init__(self, app: ReconcilerApp, figures: Figures, health: Health) -> None:
        self._app = app
        self._figures = figures
        self._health = health
        self.settings: Settings = app.settings
        self.access = Access(app.settings.web_token.get_secret_value())
        self.watch = Watch(self._read, lambda: self.sinks)
        self._threads = asyncio.Semaphore(_THREADS)
        self._waiting = 0
        self._postgres: Postgres | None = None
        self._templates = jinja2.Environment(
            loader=jinja2.DictLoader(_templates()),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    @property
    def topology(self) -> Topology:
        """The app's topology; complete once the app has started."""
        return in_flow_order(topology_of(self._app, self._app.reconciler.wiring))

    @property
    def sinks(self) -> list[Sink]:
        """The hook sinks."""
        return sinks_of(self.topology)

    @property
    def stages(self) -> list[str]:
        """The names of the stages."""
        return sorted(agent.name for agent in self._app.agents.values())

    @property
    def layout(self) -> StreamLayout:
        """Where the app's keys are."""
        return self._app.redis_layout

    @property
    def worker_name(self) -> str:
        """Who answers."""
        return self._app.worker_name

    def render(self, request: web.BaseRequest, name: str, **values: Any) -> str:
        """Return the HTML of a template."""
        return self._templates.get_template(name).render(
            worker=self.worker_name,
            is_read_only=self.access.is_read_only,
            form_token=self.access.form_token(request),
            **values,
        )

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run what waits for Postgres where the worker does not wait for it.

        Raises:
            BusyError: too much waits for its turn already.
        """
        if self._waiting >= _WAITING_MAX:
            raise BusyError
        self._waiting += 1
        try:
            async with self._threads:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1

    async def history(self, capsule_id: str) -> History:
        """Return what is known of a capsule.

        Raises:
            InvalidIdError: `capsule_id` is none.
            TransportError, DatabaseError: a server does not answer as it should.
        """
        if self._postgres is None:
            settings = self.settings
            self._postgres = Postgres(
                settings.database_url,
                pool_size=_POOL_SIZE,
                connect_timeout_s=settings.postgres_connect_timeout_s,
                statement_timeout_ms=settings.statement_timeout_ms,
                lock_timeout_ms=settings.lock_timeout_ms,
            )
            await self._postgres.open()
        topics = self._app.reconciler.topics
        return await read_history(
            capsule_id,
            postgres=self._postgres,
            client=(await self._producer()).client,
            layout=self._app.redis_layout,
            topics=[topic.get_topic_name() for topic in (topics.capsules, *topics.hooks.values())],
            sinks=topics.hooks,
            group=self.settings.app_id,
        )

    async def deliveries(self, sink: str, wanted: Wanted) -> list[SinkDelivery]:
        """Return the last deliveries to a sink; raises TransportError."""
        return await of_sink((await self._producer()).client, self.layout, sink, wanted)

    async def close(self, _: web.Application) -> None:
        """Send all away; a handler of aiohttp's ``on_shutdown``, which waits for who is there."""
        await self.watch.close()
        if self._postgres is not None:
            await self._postgres.close()

    async def reasons(self) -> list[dict[str, str]]:
        """Why this worker, or a server, does not do its part; also where Redis says nothing."""
        report = await self._health.check(max_age_s=_PROBED_S)
        return [
            {"culprit": reason.culprit, "text": reason.text, "worker": report.worker}
            for reason in report.reasons
        ]

    async def _read(self) -> LiveTopology:
        report = await self._health.check(max_age_s=_PROBED_S)
        latest = self._figures.latest
        return await read_live(
            (await self._producer()).client,
            self.topology,
            self._app.reconciler.topics,
            self._app.redis_layout,
            group=self.settings.app_id,
            own=None if latest is None else latest | report.as_told(),
        )

    async def _producer(self) -> Producer:
        producer = await self._app.maybe_start_producer()
        assert isinstance(producer, Producer)  # noqa: S101 - the app's broker is Redis
        return producer


SITE: Final = web.AppKey("SITE", Site)


def _templates() -> dict[str, str]:
    folder = resources.files("streams.web").joinpath("templates")
    return {
        entry.name: entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".html")
    }


def _shown(value: object) -> object:
    """What a template writes for `value`: text in one line, with all that turns or hides it named.

    What is of a subclass of str is markup by now.
    """
    if value is None:
        return ""
    return printable(value) if type(value) is str else value
