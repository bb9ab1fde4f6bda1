"""Processes that start at once: what a fork server makes, as a test sees it."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

from tests.fork_server import Order

__all__ = ["ROOT", "ForkedProcess"]

ROOT = Path(__file__).parent.parent


class ForkedProcess:
    """What is asked of a `subprocess.Popen`, for ``python -m MODULE ARGUMENTS``.

    Arguments:
        files: stdin, stdout and stderr, as file descriptors.
    """

    _orders: ClassVar[socket.socket | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, order: Order, files: tuple[int, int, int]) -> None:
        self.args = [sys.executable, "-m", order.module, *order.arguments]
        self._said = b""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._end = ours.detach()
        weakref.finalize(self, os.close, self._end)
        said = json.dumps(asdict(order)).encode() + b"\n"
        with self._lock, theirs:
            orders = self._server()
            socket.send_fds(orders, [said[:1]], [*files, theirs.fileno()])
            orders.sendall(said[1:])
        pid = self._number(0, timeout_s=60)
        assert pid is not None, "the fork server does not answer"
        self.pid = pid

    @classmethod
    def _server(cls) -> socket.socket:
        if cls._orders is None:
            cls._orders, theirs = socket.socketpair()
            with theirs:
                server = subprocess.Popen(
                    [sys.executable, "-m", "tests.fork_server"], cwd=ROOT, stdin=theirs.fileno()
                )
            atexit.register(cls._end_server, server)
        return cls._orders

    @classmethod
    def _end_server(cls, server: subprocess.Popen[bytes]) -> None:
        assert cls._orders is not None
        cls._orders.close()
        server.wait(10)

    def _number(self, n: int, *, timeout_s: float | None) -> int | None:
        """Return the `n`-th number that the server says, or None if it says less in this time."""
        while len(numbers := self._said.split(b"\n")[:-1]) <= n:
            if not select.select([self._end], [], [], timeout_s)[0]:
                return None
            try:
                said = os.read(self._end, 64)
            except BlockingIOError:  # another thread waits as well, and was first
                continue
            assert said, "the fork server has ended"
            self._said += said
        return int(numbers[n])

    @property
    def returncode(self) -> int | None:
        """The exit code, as far as it is known."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._number(1, timeout_s=0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self._number(1, timeout_s=timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash of the machine would."""
        self.send_signal(signal.SIGKILL)
