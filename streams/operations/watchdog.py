"""Says so when a worker makes no progress, and ends it where only a restart helps.

Whatever is expected to pass (a server that is away, a row that is locked, a sink that refuses)
is waited for by the stages themselves, which say what they wait for. What is left are faults of
the program, and those that end silently:

* An agent has ended by an exception. Faust would start it anew, with what came behind the entries
  that it had, and so past them. The worker ends, and its successor begins with what is pending.
* Entries are in hand and for long none of them has ended or been tried again: said, once.
* The event loop does not turn: said, with what it is in the middle of, by a thread, since nothing
  else in the process can; after as long again as a stall the worker ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Iterable
from time import monotonic
from typing import Final

import faust
import structlog
from faust.agents.actor import Actor
from mode.supervisors import SupervisorStrategy
from mode.types import ServiceT

from streams.errors import BrokenError
from streams.figures.meter import Meter
from streams.transport import Consumer

__all__ = ["EndingSupervisor", "Watchdog"]

log = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 1.0
#: Looks after which a loop that has not turned is said to be blocked.
_BLOCKED_LOOKS: Final = 5
#: How long a worker that is broken may take to stop.
_LAST_RESORT_S: Final = 60.0


class EndingSupervisor(SupervisorStrategy):
    """Supervises an agent: where another would start it anew, this one ends the worker."""

    async def restart_services(self, services: list[ServiceT]) -> None:
        """Call when `services`, the running tasks of the agent, have ended by an exception."""
        for service in services:
            assert isinstance(service, Actor)  # noqa: S101 - what Faust gives its supervisors
            why = f"the agent {service.agent.name} has ended by an exception"
            log.error("this worker is broken, and ends", action="worker_broken", why=why)
            # Should the stop hang as well.
            last_resort = threading.Timer(_LAST_RESORT_S, os._exit, args=(1,))
            last_resort.daemon = True
            last_resort.start()
            await service.agent.app.crash(BrokenError(why))


class Watchdog:
    """Watches the entries in hand and the event loop of one worker.

    Arguments:
        stall_after_s: how long nothing may move while something is in hand.
        waits: topics whose entries may wait for as long as they have to, such as a sink's.
    """

    def __init__(
        self,
        app: faust.App,
        meter: Meter,
        *,
        stall_after_s: float,
        waits: Iterable[str],
    ) -> None:
        self._app = app
        self._meter = meter
        self._stall_after_s = stall_after_s
        self._waits = frozenset(waits)
        self._moves = -1
        self._moved_at = monotonic()
        #: What is stuck; empty while everything moves.
        self.stalled = ""

    async def watch(self, app: faust.App) -> None:
        """Look once a second until `app` stops; a Faust task."""
        over = threading.Event()
        loop = asyncio.get_running_loop()
        thread = threading.Thread(
            target=_watch_loop,
            args=(loop, over, threading.get_ident(), self._stall_after_s),
            name="watchdog",
            daemon=True,
        )
        thread.start()
        try:
            while not app.should_stop:
                self._look_for_a_stall()
                await app.sleep(_LOOK_EVERY_S)
        finally:
            over.set()

    def _look_for_a_stall(self) -> None:
        now = monotonic()
        stages = self._meter.stages.values()
        moves = sum(sum(stage.outcomes.values()) for stage in stages)
        in_hand = self._in_hand()
        # A sink may hold up the pipeline for as long as its settings say, which is said elsewhere.
        held_up = any(sink.holding_up for sink in self._meter.sinks.values())
        if moves != self._moves or not in_hand or held_up:
            self._moves, self._moved_at = moves, now
            self.stalled = ""
        elif not self.stalled and now - self._moved_at >= self._stall_after_s:
            self.stalled = ", ".join(f"{topic}: {n}" for topic, n in in_hand.items())
            log.error(
                "entries are in hand, and none has ended or been tried again",
                action="stalled",
                for_s=round(now - self._moved_at, 1),
                in_hand=in_hand,
                waits={stage.name: stage.blocked_by for stage in stages if stage.blocked_by},
            )

    def _in_hand(self) -> dict[str, int]:
        """Entries in hand by topic."""
        consumer = self._app.consumer
        found: dict[str, int] = {}
        if isinstance(consumer, Consumer):
            for tp in consumer.assignment():
                entries = consumer.ledger.unsettled(tp)
                if entries and tp.topic not in self._waits:
                    found[tp.topic] = found.get(tp.topic, 0) + entries
        return found


def _watch_loop(
    loop: asyncio.AbstractEventLoop,
    over: threading.Event,
    thread_id: int,
    dead_after_s: float,
) -> None:
    """Look whether `loop` turns, until `over`; runs in a thread of its own.

    Looks are counted, and not seconds: a process that was frozen as a whole missed none.
    """
    turned = threading.Event()
    turned.set()
    missed = 0
    # One that is not even said to be blocked is not ended for it.
    dead_looks = max(2 * dead_after_s / _LOOK_EVERY_S, 2 * _BLOCKED_LOOKS)
    while not over.wait(_LOOK_EVERY_S):
        missed = 0 if turned.is_set() else missed + 1
        if missed == 0:
            turned.clear()
            try:
                loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # closed
                return
        elif missed == _BLOCKED_LOOKS:
            frame = sys._current_frames().get(thread_id)  # noqa: SLF001 - the only way there is
            log.error(
                "the event loop does not turn",
                action="loop_blocked",
                for_s=missed * _LOOK_EVERY_S,
                stack="".join(traceback.format_stack(frame)[-8:]) if frame else "",
            )
        elif missed >= dead_looks:
            log.error(
                "this worker is broken, and ends",
                action="worker_broken",
                why="the event loop does not turn",
            )
            os._exit(1)
