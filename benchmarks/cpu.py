"""Processor time: what hardly notices what else the machine does, unlike the time that passes."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import psutil

__all__ = ["CpuMeter", "Used", "used_s"]


@dataclass(frozen=True, slots=True)
class Used:
    """Processor time, in user and system mode, of the three that work on an event."""

    contender: float
    postgres: float
    redis: float

    def __sub__(self, before: Used) -> Used:
        return Used(
            self.contender - before.contender,
            self.postgres - before.postgres,
            self.redis - before.redis,
        )

    def __truediv__(self, by: float) -> Used:
        return Used(self.contender / by, self.postgres / by, self.redis / by)

    def __mul__(self, by: float) -> Used:
        return Used(self.contender * by, self.postgres * by, self.redis * by)

    @property
    def total(self) -> float:
        """Of all three."""
        return self.contender + self.postgres + self.redis


def used_s(pid: int) -> float:
    """Return what a process and its children have used, in seconds; of those that ended, too."""
    process = psutil.Process(pid)
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # then its parent has its time
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class CpuMeter:
    """The part of one core that a process uses, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begun = (time.monotonic(), used_s(pid))

    def percent(self) -> float:
        """Return it in per cent."""
        begun_at, before_s = self._begun
        return (used_s(self._pid) - before_s) / (time.monotonic() - begun_at) * 100
