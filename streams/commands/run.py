"""``run``: the main job for development, all of it in one terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final, NoReturn

import click
from faust.cli.base import option
from rich.console import Console

import config
from config.migrate import migrate
from config.server_process import LOOPBACK, free_port
from config.settings import load_settings, mask_url
from config.sources import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE
from streams.child_process import ChildProcess
from streams.commands.command import ReconcilerCommand
from streams.commands.live_view import LiveView, PlainView, View
from streams.commands.signals import stop_on_signals
from streams.commands.watch import Watch
from streams.figures.status import Status, read_status
from streams.simulation.rows import Origin, find_sandboxes
from streams.simulation.sandbox_changes import SandboxChanges
from streams.topics import Topics, make_topics
from streams.transport import CONFIG_KEY

__all__ = ["run"]

_DEMO_CONFIG: Final = Path(config.__file__).parent / "demo.toml"
_DEMO_CAPSULES: Final = 40
_PUBLISHER_STOP_S: Final = 10.0
#: What a worker gets beyond the time it takes to finish what is under way.
_WORKER_STOP_S: Final = 10.0
_LAST_LINES: Final = 8


class run(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Run it all for development: servers, one worker, and a publisher that keeps it busy."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option(
            "--demo/--no-demo",
            default=True,
            show_default=True,
            help="Have a simulated control plane publish events.",
        ),
        option(
            "--rate",
            type=click.FloatRange(min=0, min_open=True),
            default=5,
            show_default=True,
            help="Events per second of the demo.",
        ),
    ]

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run until Ctrl-C, which is the normal end also while the servers start."""
        try:
            super().__call__(*args, **kwargs)
        except SystemExit as exc:
            raise SystemExit(0 if exc.code == 130 else exc.code) from exc

    async def run(self, demo: bool, rate: float) -> None:
        """Start all, show how it goes, and stop all in order."""
        environ = self._child_environ(demo=demo)
        self._prepare_database(demo=demo)
        worker = self._child("worker", ["worker"], environ)
        arguments = ["publish", "--count=0", f"--rate={rate}", f"--capsules={_DEMO_CAPSULES}"]
        publisher = self._child("publisher", arguments, environ) if demo else None
        children = [child for child in (publisher, worker) if child is not None]

        def kill_children() -> None:
            for child in children:
                child.kill()

        with stop_on_signals(again=kill_children) as stopped:
            try:
                await worker.start()
                with self._view(children, page=self._page(environ)) as view:
                    await self._watch(view, stopped, worker, publisher, environ)
                failed = not worker.is_running and not stopped.is_set()
            finally:
                await self._stop(publisher, worker)
        if failed:
            lines = "\n".join(worker.last_lines(_LAST_LINES))
            self.fail(f"the worker has died ({worker.ending}); its last lines:\n{lines}")

    async def _watch(
        self,
        view: View,
        stopped: asyncio.Event,
        worker: ChildProcess,
        publisher: ChildProcess | None,
        environ: Mapping[str, str],
    ) -> None:
        topics = self._topics_of_worker(environ)
        changes = SandboxChanges(self.settings.database_url)
        async with self.redis() as client:

            async def read_figures() -> Status:
                return await read_status(
                    client,
                    self.settings.database_url,
                    topics,
                    self.reconciler_app.redis_layout,
                    group=self.app.conf.id,
                )

            watch = Watch(
                read_figures,
                changes,
                client,
                source=self.settings.source_stream,
                worker=worker,
                worker_name=environ["CAPSULES_WORKER_NAME"],
                publisher=publisher,
            )
            with contextlib.closing(changes):
                await watch.run(view, stopped)

    def _child_environ(self, *, demo: bool) -> dict[str, str]:
        """Return what tells a child where the servers are, so that it starts none of its own."""
        settings = self.settings
        environ = {
            "REDIS_URL": settings.redis_url,
            "DATABASE_URL": settings.database_url,
            "CAPSULES_LOG_FORMAT": "json",
            "CAPSULES_WEB_PORT": str(settings.web_port or free_port()),
            "CAPSULES_WORKER_NAME": settings.worker_name or f"run-{os.getpid()}",
        }
        has_config = os.environ.get(CONFIG_VARIABLE) or Path(DEFAULT_CONFIG_FILE).exists()
        if demo and not has_config:
            environ[CONFIG_VARIABLE] = str(_DEMO_CONFIG)
        return environ

    def _prepare_database(self, *, demo: bool) -> None:
        url = self.settings.database_url
        origin = find_sandboxes(url)
        if demo and origin is Origin.CONTROL_PLANE:
            self.fail(
                "the demo writes made-up sandboxes, and this database has those of a control"
                " plane: leave the demo out (--no-demo), or set another DATABASE_URL"
            )
        migrate(url, dev=origin is not Origin.CONTROL_PLANE)

    def _child(self, name: str, arguments: list[str], environ: Mapping[str, str]) -> ChildProcess:
        return ChildProcess(name, arguments, environ, self.settings.data_dir / f"{name}.log")

    def _topics_of_worker(self, environ: Mapping[str, str]) -> Topics:
        """Return the topics of the worker, which may have sinks that this process has not."""
        topics = make_topics(self.reconciler_app, load_settings({**os.environ, **environ}))
        layout = self.reconciler_app.redis_layout
        for topic in topics.hooks.values():
            assert topic.config is not None  # noqa: S101 - make_topics gives each one
            layout.declare(topic.get_topic_name(), topic.partitions or 1, topic.config[CONFIG_KEY])
        return topics

    def _page(self, environ: Mapping[str, str]) -> str:
        bind = self.settings.web_bind
        host = LOOPBACK if bind in ("0.0.0.0", "::") else bind  # noqa: S104 - compared
        at = f"[{host}]" if ":" in host else host
        return f"http://{at}:{environ['CAPSULES_WEB_PORT']}/topology"

    def _view(self, children: list[ChildProcess], *, page: str) -> View:
        console = Console()
        if not console.is_terminal:
            self._tell(f"page: {page}")
            return PlainView()
        logs = "   ".join(f"{child.name}: {_from_here(child.log_path)}" for child in children)
        urls = f"{mask_url(self.settings.redis_url)}   {mask_url(self.settings.database_url)}"
        notes = (f"page   {page}", urls, f"logs   {logs}", "Ctrl-C stops all of it")
        return LiveView(console, "wrenn capsule reconciler", notes)

    async def _stop(self, publisher: ChildProcess | None, worker: ChildProcess) -> None:
        drain_s = self.settings.drain_timeout_s
        for child, timeout_s in (
            (publisher, _PUBLISHER_STOP_S),
            (worker, drain_s + _WORKER_STOP_S),
        ):
            if child is None or not child.is_running:
                continue
            self._tell(f"stopping the {child.name} ...")
            started = monotonic()
            ended = await child.stop(timeout_s=timeout_s)
            word = "stopped" if ended else "killed"
            self._tell(f"{child.name} {word} after {monotonic() - started:.1f} s")

    @staticmethod
    def _tell(text: str) -> None:
        print(text, flush=True)


def _from_here(path: Path) -> Path:
    """Return `path` as a person in the working directory would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
