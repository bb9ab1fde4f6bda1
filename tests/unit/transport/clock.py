"""A clock for what is told which one to look at."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s
