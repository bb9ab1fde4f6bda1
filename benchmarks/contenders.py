"""Who takes part, and one run of one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from benchmarks import faststream_batch
from benchmarks.arena import Arena, beginning_of
from benchmarks.cpu import Used, used_s
from benchmarks.mixes import Log
from benchmarks.processes import BenchmarkError, Module, Reconciler
from tests.oracle import replay

__all__ = ["CONTENDERS", "Contender", "Run", "run_once"]

_TIMEOUT_S: Final = 300.0

Launch = Callable[[Arena, Path], Module | Reconciler]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work."""

    name: str
    launch: Launch
    #: Whether there are streams behind the source stream to wait for.
    topics: bool = False
    #: Whether it is given the beginning of a log only: it would take minutes over all of it.
    beginning: bool = False
    #: Why it cannot take part; empty if it can.
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to."""

    events_per_s: float
    #: Microseconds of processor time per event.
    cpu_us: Used
    #: Rows whose status is not what the events, one after the other, come to.
    wrong_rows: int


def _program(module: str, *more: str) -> Launch:
    def launch(arena: Arena, directory: Path) -> Module:
        return Module(module, arena.redis_url, arena.database_url, *more, directory=directory)

    return launch


def _worker(arena: Arena, directory: Path, *, webhook: bool) -> Reconciler:
    return Reconciler(arena, directory=directory, webhook=webhook)


_NO_FASTSTREAM: Final = "" if faststream_batch.is_installed() else "not installed"

CONTENDERS: Final = (
    Contender("one-at-a-time", _program("one_at_a_time"), beginning=True),
    Contender("plain-loop", _program("plain_loop")),
    Contender("faststream", _program("faststream_batch"), absent=_NO_FASTSTREAM),
    Contender(
        "faststream-in-order",
        _program("faststream_batch", "in-order"),
        beginning=True,
        absent=_NO_FASTSTREAM,
    ),
    Contender("reconciler", partial(_worker, webhook=False), topics=True),
    Contender("reconciler+webhook", partial(_worker, webhook=True), topics=True, beginning=True),
)


def run_once(arena: Arena, contender: Contender, log: Log) -> Run:
    """Put everything back and let `contender` work through `log`, which the arena has loaded.

    Raises:
        BenchmarkError: it did not get to the end of it.
    """
    if contender.beginning:
        log = beginning_of(log)
    arena.restore(beginning=contender.beginning)
    process = contender.launch(arena, arena.new_directory(contender.name))
    try:
        begun_at = process.wait_ready()
        before = _used(arena, process.pid)
        try:
            ended_at = arena.wait_drained(topics=contender.topics, timeout_s=_TIMEOUT_S)
            used = _used(arena, process.pid) - before
        except (TimeoutError, psutil.Error) as exc:
            raise BenchmarkError(f"{contender.name}: {exc}: {process.tail()}") from exc
    finally:
        process.stop()
    expected = replay(log.rows, log.entries)
    return Run(
        events_per_s=len(log.entries) / (ended_at - begun_at),
        cpu_us=used * 1e6 / len(log.entries),
        wrong_rows=arena.wrong_rows(expected.rows),
    )


def _used(arena: Arena, pid: int) -> Used:
    return Used(used_s(pid), used_s(arena.postgres_pid), used_s(arena.redis_pid))
