"""The wiring: which parts there are and what each is made with.

``faust -A streams.app worker`` starts from the ``app`` below. Settings that are wrong end the
program here, with one line for each mistake.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import faust
from faust.tables import TableManager
from mode import Seconds

from agents import create, destroy, failure, pause, resume
from agents.backlog_watch import BacklogWatch
from agents.deliver import Deliver
from agents.dispatch import Dispatch
from agents.effects import Effects
from agents.hooks import Made, make_sink
from agents.keep import Keep
from agents.pause_watch import PauseWatch
from agents.publish import Publish
from agents.readings import Readings
from agents.reconciler import Reconciler
from agents.recorder import Recorder
from agents.route import Route
from config.embedded import resolve_embedded
from config.log import configure_logging
from config.settings import Settings, SettingsError, load_settings
from streams import commands as commands
from streams.broker_url import broker_url, public_broker_url
from streams.figures.fleet import Figures
from streams.figures.inputs import Inputs
from streams.housekeeping.chores import keep_house
from streams.journal import PostgresJournal
from streams.operations.health import Health
from streams.operations.readiness import ReadyFile
from streams.operations.routes import serve_operations
from streams.operations.soundings import Soundings
from streams.operations.watchdog import EndingSupervisor, Watchdog
from streams.postgres import Postgres
from streams.topics import key_prefix, make_topics
from streams.topology import Wiring, topology_of
from streams.tracing.tracing import make_tracing
from streams.transport import Journal, Producer, StreamLayout, Transport, TransportOptions
from streams.transport.connection import connect
from streams.web import WEB_OPTIONS, add_page
from streams.worker import ReconcilerWorker

__all__ = ["ReconcilerApp", "app", "create_app"]

VERSION: Final = version("capsule-reconciler")


class _NoTables(TableManager):
    """Faust gives tables a second to be declared before it reads; this app has none."""

    async def sleep(self, n: Seconds) -> None:
        """Sleep not at all, but let others run."""
        await super().sleep(0)


class ReconcilerApp(faust.App):
    """The Faust app, with what its transport and its commands need to know."""

    def __init__(self, settings: Settings, logging_config: dict[str, Any]) -> None:
        self.settings = settings
        postgres = Postgres(
            settings.database_url,
            pool_size=settings.postgres_pool_size,
            connect_timeout_s=settings.postgres_connect_timeout_s,
            statement_timeout_ms=settings.statement_timeout_ms,
            lock_timeout_ms=settings.lock_timeout_ms,
        )
        journal = PostgresJournal(postgres, app_id=settings.app_id, worker=lambda: self.worker_name)
        self.redis_options = _transport_options(settings, journal)
        super().__init__(
            settings.app_id,
            # Faust prints this URL at the start; the one with the password is in the options.
            broker=public_broker_url(settings),
            store="memory://",
            Worker=ReconcilerWorker,
            TableManager=_NoTables,
            agent_supervisor=EndingSupervisor,
            logging_config=logging_config,
            topic_disable_leader=True,
            topic_partitions=settings.partitions,
            # What waits for an agent waits in the transport, which makes few large batches of it.
            stream_buffer_maxsize=1,
            web_enabled=settings.web_port > 0,
            web_bind=settings.web_bind,
            web_port=settings.web_port or 6066,
            web_application_options=WEB_OPTIONS,
            worker_redirect_stdouts=False,
        )
        wiring = Wiring(
            tracing=make_tracing(settings.traces, group=settings.app_id, version=VERSION)
        )
        self.reconciler = Reconciler(
            app=self,
            settings=settings,
            topics=make_topics(self, settings),
            postgres=postgres,
            wiring=wiring,
            recorder=Recorder(
                lambda: connect(
                    broker_url(settings),
                    timeout_s=settings.redis_timeout_s,
                    name=f"{settings.app_id}-recorder",
                ),
                StreamLayout(key_prefix(settings)),
                keep=settings.deliveries_kept,
                clock=wiring.meter.clock,
            ),
        )
        self.deliveries: list[Deliver] = []
        #: What each stage has to do; known when all of them are made.
        self.inputs: Inputs
        #: As in the settings, in their order.
        self.sinks: list[Made] = []
        self.watchdog = Watchdog(
            self,
            self.reconciler.wiring.meter,
            stall_after_s=settings.stall_after_s,
            waits=[topic.get_topic_name() for topic in self.reconciler.topics.hooks.values()],
        )
        self.task(self.watchdog.watch)

    @property
    def redis_layout(self) -> StreamLayout:
        """Which Redis keys stand behind the app's topics."""
        return self.reconciler.layout

    @property
    def worker_name(self) -> str:
        """How this worker is called in leases, logs and figures."""
        transport = self.transport
        assert isinstance(transport, Transport)  # noqa: S101 - the app's broker is Redis
        return str(transport.worker_name)

    async def on_start(self) -> None:
        """Call when the app starts, before its agents do."""
        await super().on_start()
        self.reconciler.wiring.tracing.open(worker=self.worker_name)
        await self.reconciler.postgres.open()
        await asyncio.gather(*(delivery.sink.open() for delivery in self.deliveries))

    async def on_first_start(self) -> None:
        """Call once, before anything starts: topics are known before anything is sent."""
        await super().on_first_start()
        await self.declare_topics()

    def _create_directories(self) -> None:
        """Faust makes a directory for its tables here; this app has none, and needs no disk."""

    async def declare_topics(self) -> None:
        """Tell the producer of all topics, read or not."""
        producer = self.producer
        assert isinstance(producer, Producer)  # noqa: S101 - the app's broker is Redis
        for topic in self.reconciler.topics.all():
            await producer.create_topic(
                topic.get_topic_name(), topic.partitions or 1, 1, config=topic.config
            )

    async def on_shutdown(self) -> None:
        """Call when everything has stopped."""
        await super().on_shutdown()
        await self.reconciler.recorder.finish()
        await asyncio.gather(*(delivery.sink.close() for delivery in self.deliveries))
        await self.reconciler.postgres.close()
        await asyncio.to_thread(self.reconciler.wiring.tracing.close)


def _transport_options(settings: Settings, journal: Journal) -> TransportOptions:
    return TransportOptions(
        url=str(broker_url(settings)),
        key_prefix=key_prefix(settings),
        worker_name=settings.worker_name or None,
        fetch_count=settings.fetch_count,
        prefetch_entries=settings.prefetch_entries,
        gather_ms=settings.gather_ms,
        block_ms=settings.read_block_ms,
        timeout_s=settings.redis_timeout_s,
        lease_s=settings.lease_s,
        drain_timeout_s=settings.drain_timeout_s,
        journal=journal,
    )


def create_app(settings: Settings) -> ReconcilerApp:
    """Make the app: stages from the source to the sinks."""
    app = ReconcilerApp(settings, configure_logging(settings.log_level, settings.log_format))
    reconciler = app.reconciler
    readings = Readings(payload_max_bytes=settings.payload_max_bytes)
    Route(reconciler, readings)
    effects = Effects(reconciler.shared_statement("effects"), batch_max=settings.lane_batch_max)
    publish = Publish(reconciler)
    verbs = [
        module.make_agent(reconciler, effects, publish)
        for module in (create, resume, pause, destroy, failure)
    ]
    dispatch = Dispatch(reconciler, readings, {verb.name: verb.lane for verb in verbs})
    for verb in verbs:
        verb.when_done(dispatch.release)
    for sink_settings in settings.sinks:
        made = make_sink(sink_settings)
        app.sinks.append(made)
        topic = reconciler.topics.hooks[made.sink.name]
        app.deliveries.append(Deliver(reconciler, made, topic))
    Keep(reconciler)

    def lanes() -> dict[str, int]:
        return {verb.name: len(verb.lane) for verb in verbs}

    app.inputs = Inputs(
        topology_of(app, reconciler.wiring),
        reconciler.wiring.meter,
        lanes=lanes,
        prefetch_entries=settings.prefetch_entries,
    )
    soundings = Soundings(app)
    health = Health(app, soundings, lanes=lanes)
    app.task(soundings.keep)
    figures = Figures(
        reconciler.layout,
        reconciler.wiring.meter,
        worker=app.worker_name,
        version=VERSION,
        lanes=lanes,
        inputs=app.inputs,
        health=lambda: health.known().as_told(),
    )
    app.task(figures.tell)
    app.task(reconciler.recorder.keep)
    app.task(BacklogWatch(reconciler, app.deliveries).watch)
    app.task(PauseWatch(reconciler, app.deliveries).watch)
    serve_operations(app, health, version=VERSION, lanes=lanes)
    add_page(app, figures, health)
    keep_house(app)
    if settings.ready_file:
        app.task(ReadyFile(Path(settings.ready_file), lambda: health.known().is_ready).keep)
    return app


def _make() -> ReconcilerApp:
    try:
        return create_app(resolve_embedded(load_settings()))
    except SettingsError as exc:
        sys.exit(str(exc))


app = _make()
