"""One server process of our own on this machine: launch, readiness, stop, kill."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

LOOPBACK: Final = "127.0.0.1"
READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 20.0
_LISTEN_TIMEOUT_S: Final = 1.0
_POLL_S: Final = 0.02
# Below what Linux and macOS hand out to outgoing connections: a port that is free today is not
# some client's tomorrow.
_FIRST_PORT: Final = 20_000
_PORTS: Final = 10_000
_LOG_TAIL_BYTES: Final = 2000


class EmbeddedServerError(Exception):
    """An embedded server could not be started, found or stopped; one line says which and why."""


class ServerProcess(ABC):
    """A server whose data is in `directory`, listening on `port` of the loopback interface.

    The process gets a session of its own: Ctrl-C in a terminal reaches the workers, which drain
    and still need it. It may have been started by another process, also one that is gone.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, directory: Path, port: int, *, fsync: bool = True) -> None:
        self.directory = directory.resolve()
        self.port = port
        self.fsync = fsync
        self.log_path = self.directory.parent / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def url(self) -> str:
        """Return the address for clients."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Tell whether the server on our port answers and serves our directory."""

    @abstractmethod
    def _recorded_pid(self) -> int | None:
        """Return the process id in the server's own pid file, whether it runs or not."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the data directory, and remove what a killed server left that is in the way."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line of a server that stays in the foreground."""

    def _identity(self) -> dict[str, Any]:
        """Return the arguments of Popen that say as which user the server runs."""
        return {}

    def _may_retry(self, log: str) -> bool:
        """Tell whether the reason in the log for an early end goes away by itself."""
        return False

    def running_pid(self) -> int | None:
        """Return the process id of the server that has our directory open, or None."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        pid = self._recorded_pid()
        return pid if pid is not None and works_in(pid, self.directory) else None

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Launch the server and return when it is ready; EmbeddedServerError if it is not."""
        deadline = time.monotonic() + timeout_s
        self._prepare()
        while True:
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._launch()
            if self._becomes_ready(deadline):
                return
            log = self._log_since(log_start)
            ended = self._process is None or self._process.poll() is not None
            self.kill()
            if not (ended and self._may_retry(log) and time.monotonic() < deadline):
                lines = " | ".join(line.strip() for line in log.splitlines()[-3:])
                outcome = "ended at once" if ended else f"is not ready after {timeout_s:g} s"
                raise EmbeddedServerError(
                    f"embedded {self.name} {outcome} (log: {self.log_path}): {lines}"
                )
            time.sleep(_POLL_S * 5)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> bool:
        """Wait for a server that someone else starts; False if it is not ready in time."""
        return _wait(self.is_ready, time.monotonic() + timeout_s)

    def listens(self) -> bool:
        """Tell whether a server that runs listens on our port; it does before it is ready."""
        return _wait(lambda: answers(self.port), time.monotonic() + _LISTEN_TIMEOUT_S)

    def stop(self, sig: signal.Signals | None = None) -> None:
        """Stop the server and wait for its end; after 20 s it is killed. Nothing if not running."""
        pid = self.running_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig or self.stop_signal)
            if not _wait(lambda: self._has_ended(pid), time.monotonic() + STOP_TIMEOUT_S):
                self.kill()
        self._process = None

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would, and wait for its end."""
        pid = self.running_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if not _wait(lambda: self._has_ended(pid), time.monotonic() + STOP_TIMEOUT_S):
                raise EmbeddedServerError(f"embedded {self.name}, process {pid}, cannot be killed")
        self._process = None

    def _launch(self) -> None:
        with self.log_path.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    start_new_session=True,
                    **self._identity(),
                )
            except OSError as error:
                raise EmbeddedServerError(f"embedded {self.name} cannot be run: {error}") from error

    def _becomes_ready(self, deadline: float) -> bool:
        process = self._process

        def settled() -> bool:
            return (process is not None and process.poll() is not None) or self.is_ready()

        return _wait(settled, deadline) and process is not None and process.poll() is None

    def _has_ended(self, pid: int) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        return not is_alive(pid)

    def _log_since(self, offset: int) -> str:
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(offset, end - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now."""
    for _ in range(1000):
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise EmbeddedServerError(
        f"no free port from {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} on {LOOPBACK}"
    )


def answers(port: int) -> bool:
    """Tell whether somebody accepts connections on this port of the loopback interface."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def _wait(condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def is_alive(pid: int) -> bool:
    """Tell whether this process exists and has not ended; whoever it belongs to."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # A dead process whose parent does not wait for it, as happens in containers.
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True


def works_in(pid: int, directory: Path) -> bool:
    """Tell whether this process is alive and has `directory` as its working directory.

    Both servers change into their data directory. It tells ours from another process that got
    the number of a killed one; where there is no /proc, being alive must do.
    """
    if not is_alive(pid):
        return False
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    except OSError:
        return False
