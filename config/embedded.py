"""Servers of our own for development, where REDIS_URL or DATABASE_URL is `embedded`.

Their data, ports and logs are in `data_dir`. All processes of one checkout find the same servers
there: the first that needs one starts it and stops it when it ends itself. If it is killed
instead, its servers go on, and the next process takes them over.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from config.ephemeral import EphemeralServers
from config.postgres_server import PostgresServer
from config.server_process import EmbeddedServerError, ServerProcess, answers, free_port
from config.settings import EMBEDDED, Settings
from config.valkey_server import ValkeyServer

__all__ = ["EmbeddedServerError", "EmbeddedServers", "EphemeralServers", "resolve_embedded"]

log = structlog.get_logger(__name__)

DATABASE: Final = "wrenn"
_FIELDS: Final = {"redis": "redis_url", "postgres": "database_url"}


def resolve_embedded(settings: Settings) -> Settings:
    """Return the settings with the addresses of the embedded servers in place of `embedded`.

    The servers need not run yet: the ports are chosen the first time and kept in
    `<data_dir>/ports.json`. A port that a stranger listens on by now is replaced.
    """
    wanted = [name for name, field in _FIELDS.items() if getattr(settings, field) == EMBEDDED]
    if not wanted:
        return settings
    data_dir = settings.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    with _locked(data_dir / "ports.lock"):
        ports = _read_ports(data_dir)
        for name in wanted:
            port = ports.get(name)
            if port is None or _is_taken_by_a_stranger(_server(name, data_dir, port)):
                ports[name] = free_port()
        # Renamed into place: a reader without the lock sees the old file or the new one.
        unfinished = data_dir / "ports.json.unfinished"
        unfinished.write_text(json.dumps(ports), encoding="utf-8")
        unfinished.rename(data_dir / "ports.json")
    urls = {_FIELDS[name]: _server(name, data_dir, ports[name]).url() for name in wanted}
    return settings.model_copy(update=urls)


class EmbeddedServers:
    """Starts the servers that are `embedded` and do not run yet; stops those it answers for.

    Takes the settings before or after `resolve_embedded`; `settings` has the addresses. Use it as
    a context manager, or call `start` and `stop`; the servers are also stopped at the normal end
    of the process and by SIGTERM or SIGHUP, but for a process that handles these itself.
    """

    def __init__(self, settings: Settings) -> None:
        ours = _recorded_urls(settings.data_dir)
        embedded = {
            field: EMBEDDED
            for name, field in _FIELDS.items()
            if getattr(settings, field) in (EMBEDDED, ours.get(name))
        }
        self.settings = resolve_embedded(settings.model_copy(update=embedded))
        ports = _read_ports(settings.data_dir)
        self._servers = [
            _server(name, settings.data_dir, ports[name])
            for name, field in _FIELDS.items()
            if field in embedded
        ]
        self._owned: list[tuple[ServerProcess, int]] = []
        self._pid = os.getpid()

    def start(self) -> Settings:
        """Return the settings with the addresses once every embedded server is ready.

        Raises EmbeddedServerError if one is not; then none is left that was started here.
        """
        atexit.register(self.stop)
        _end_on_signals()
        try:
            for server in self._servers:
                self._start(server)
        except BaseException:
            self.stop()
            raise
        return self.settings

    def stop(self) -> None:
        """Stop what was started here or taken over; the data stay. Nothing the second time."""
        atexit.unregister(self.stop)
        if os.getpid() != self._pid:
            return  # a fork: the servers are its parent's
        while self._owned:
            server, ownership = self._owned.pop()
            try:
                server.stop()
            finally:
                os.close(ownership)
            log.info(
                "embedded server stopped", action="embedded_server_stopped", server=server.name
            )

    def _start(self, server: ServerProcess) -> None:
        # The kernel frees this lock when its holder dies, however it dies.
        ownership = _try_lock(server.directory.parent / f"{server.name}.owner")
        if ownership is None:
            if not server.wait_ready():
                raise EmbeddedServerError(
                    f"embedded {server.name} of another process does not answer on port "
                    f"{server.port} (log: {server.log_path})"
                )
            log.info("embedded server found", action="embedded_server_found", url=server.url())
            return
        self._owned.append((server, ownership))
        if server.running_pid() is not None and server.listens() and server.wait_ready():
            action = "embedded_server_taken_over"
        else:
            server.stop()  # one that does not answer, or on another port
            server.start()
            action = "embedded_server_started"
        log.warning(
            f"embedded {server.name} is for development only: no password, one machine",
            action=action,
            server=server.name,
            url=server.url(),
            directory=str(server.directory),
            process=server.running_pid(),
        )

    def __enter__(self) -> EmbeddedServers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _server(name: str, data_dir: Path, port: int) -> ServerProcess:
    if name == "redis":
        return ValkeyServer(data_dir / "valkey", port)
    return PostgresServer(data_dir / "postgres", port, DATABASE)


def _is_taken_by_a_stranger(server: ServerProcess) -> bool:
    return server.running_pid() is None and answers(server.port)


def _read_ports(data_dir: Path) -> dict[str, int]:
    try:
        ports = json.loads((data_dir / "ports.json").read_text(encoding="utf-8"))
        return {name: int(ports[name]) for name in _FIELDS if name in ports}
    except (OSError, ValueError, TypeError):
        return {}  # not there, or spoilt: new ports


def _recorded_urls(data_dir: Path) -> dict[str, str]:
    return {
        name: _server(name, data_dir, port).url() for name, port in _read_ports(data_dir).items()
    }


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _end_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into a normal end, unless the process has handlers of its own."""
    if threading.current_thread() is not threading.main_thread():
        return
    for sig in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sig) == signal.SIG_DFL:
            signal.signal(sig, _exit)


def _exit(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)
