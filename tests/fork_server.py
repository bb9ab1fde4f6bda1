"""Forks processes in which all modules are imported already.

``python -m faust -A streams.app ...`` takes more than a second of processor time before it does
anything, nearly all of it for importing. Tests start hundreds of such processes. A process made
here is what it would be otherwise, with its own id, environment, directory, files and end, and
makes its own app (`streams.app`) of what it finds in place. What is measured is not made here, nor
is what a test wants to see from its very start.

Orders come over the socket that is file descriptor 0: a line of JSON, and with it stdin, stdout,
stderr and a socket on which the id of the process is said, and at its end its exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from dataclasses import dataclass

__all__ = ["Order"]

#: All that `streams.app` imports; what is missing here only costs time.
MODULES = (
    "agents.backlog_watch",
    "agents.create",
    "agents.deliver",
    "agents.dispatch",
    "agents.hooks.postgres",
    "agents.keep",
    "agents.pause_watch",
    "agents.recorder",
    "agents.route",
    "config.embedded",
    "faust.agents",
    "faust.app.base",
    "faust.app.router",
    "faust.assignor.leader_assignor",
    "faust.cli.faust",
    "faust.fixups.django",
    "faust.tables",
    "faust.topics",
    "faust.transport.utils",
    "faust.types.settings",
    "faust.utils.cron",
    "faust.utils.venusian",
    "streams.commands",
    "streams.figures.inputs",
    "streams.housekeeping.chores",
    "streams.operations.routes",
    "streams.operations.soundings",
    "streams.operations.watchdog",
    "streams.tracing.tracing",
    "streams.web",
    "streams.worker",
)


@dataclass(frozen=True)
class Order:
    """What a process is to be.

    Arguments:
        module: what Python runs, as with ``-m``.
        leads_session: whether it is the first of a session of its own.
    """

    module: str
    arguments: list[str]
    directory: str
    environment: dict[str, str]
    leads_session: bool

    def take_effect(self, files: list[int]) -> None:
        """Make this process what is ordered, with `files` as stdin, stdout and stderr."""
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        if self.leads_session:
            os.setsid()
        os.chdir(self.directory)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.argv[1:] = self.arguments
        beside = self.environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:1] = [self.directory, *(path for path in beside if path not in sys.path)]
        importlib.invalidate_caches()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through="PYTHONUNBUFFERED" in self.environment)  # type: ignore[union-attr]
        signal.signal(signal.SIGINT, signal.default_int_handler)


def serve(orders: socket.socket) -> Order | None:
    """Fork until the tests are over; each new process returns what it is to be."""
    ends: dict[int, socket.socket] = {}
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([orders.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1_024)
            _say_who_has_ended(ends)
        if orders.fileno() not in ready:
            continue
        order, files = _take(orders)
        if order is None:
            return None
        *files, end = files
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for file in (woken, wake, end, orders.detach(), *(s.detach() for s in ends.values())):
                os.close(file)
            order.take_effect(files)
            return order
        for file in files:
            os.close(file)
        ends[pid] = socket.socket(fileno=end)
        ends[pid].sendall(b"%d\n" % pid)


def _take(orders: socket.socket) -> tuple[Order | None, list[int]]:
    said, files, _, _ = socket.recv_fds(orders, 1 << 16, 4)
    while said and not said.endswith(b"\n"):
        said += orders.recv(1 << 16)
    return (Order(**json.loads(said)) if said else None), files


def _say_who_has_ended(ends: dict[int, socket.socket]) -> None:
    while ends:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        # Who has started it may not ask any more.
        with ends.pop(pid) as end, contextlib.suppress(BrokenPipeError):
            end.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def main() -> None:
    """Serve, or be what is ordered; how that ends is how this process ends."""
    for module in MODULES:
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    order = serve(socket.socket(fileno=os.dup(0)))
    if order is not None:
        # As runpy does it for packages, but for those that put an object in their own place.
        is_package = hasattr(sys.modules.get(order.module), "__path__")
        name = f"{order.module}.__main__" if is_package else order.module
        runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
