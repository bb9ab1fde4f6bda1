"""The cap on one sink's backlog: no more is sent into its topic than it may hold.

How much waits is asked once a second, for all workers together; in between each knows what it has
sent itself. So the cap may be passed by what the fleet sends in that time, and what it costs is a
comparison for each batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from config.settings import DeliverySettings
from streams.figures.meter import StageMeter
from streams.figures.sink_meter import SinkMeter
from streams.sinks.room import ROOM_BELOW

__all__ = ["BacklogCap"]

log = structlog.get_logger(__name__)

#: How often who is held up looks whether the worker stops.
_LOOK_EVERY_S: Final = 0.25


class BacklogCap:
    """One sink's cap, at one worker."""

    def __init__(self, settings: DeliverySettings, meter: SinkMeter) -> None:
        self.name = settings.name
        self.most = settings.backlog_max
        self.holds = settings.at_backlog_max == "hold"
        self._policy = settings.at_backlog_max
        self._meter = meter
        meter.backlog_max = self.most
        meter.at_backlog_max = self._policy
        #: Entries that this worker has sent, in all, and when the backlog was asked for last.
        self.sent = 0
        self._sent_before = 0
        self._found = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def entries(self) -> int:
        """How many wait, as far as this worker knows; rather too many than too few."""
        return self._found + self.sent - self._sent_before

    @property
    def over(self) -> int:
        """How many wait that should not."""
        return max(self.entries - self.most, 0)

    @property
    def left(self) -> int:
        """How many more there is room for."""
        return max(self.most - self.entries, 0)

    def note_sent(self, entries: int) -> None:
        """Note that this worker has sent so many."""
        self.sent += entries
        if self.entries >= self.most:
            self._judge()

    def note_found(self, entries: int, *, sent_before: int) -> None:
        """Note how many were found in the topic; `sent_before` is `sent` when it was asked for."""
        self._found, self._sent_before = entries, sent_before
        self._judge()

    def _judge(self) -> None:
        self._meter.backlog = self.entries
        if self.entries >= self.most and not self._meter.backlog_is_full:
            self._meter.fill_backlog()
            self._room.clear()
            log.warning(
                "the backlog of a sink is full: the stages before it wait"
                if self.holds
                else "the backlog of a sink is full: its oldest deliveries become dead letters",
                action="backlog_full",
                sink=self.name,
                entries=self.entries,
                backlog_max=self.most,
                at_backlog_max=self._policy,
            )
        elif self._meter.backlog_is_full and self.entries <= int(self.most * ROOM_BELOW):
            log.warning(
                "the backlog of a sink has room again",
                action="backlog_has_room",
                sink=self.name,
                entries=self.entries,
                full_for_s=round(self._meter.backlog_full_s(), 1),
            )
            self._meter.empty_backlog()
            self._room.set()

    async def wait_for_room(self, stage: StageMeter, is_leaving: Callable[[], bool]) -> bool:
        """Hold `stage` up while the backlog is full; False: the worker stops, send nothing.

        Nothing waits here where the oldest deliveries give way.
        """
        if not self.holds or self._room.is_set():
            return True
        stage.block(f"sink.{self.name}")
        self._meter.holding_up += 1
        try:
            while not self._room.is_set():
                if is_leaving():
                    return False
                try:
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        await self._room.wait()
                except TimeoutError:
                    pass
        finally:
            self._meter.holding_up -= 1
            stage.unblock()
        return True
