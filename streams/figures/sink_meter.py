"""What a worker counts of one sink: its breaker, whether it is paused, how full its topic is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SinkMeter", "told_of_sink"]


@dataclass(slots=True, eq=False)
class SinkMeter:
    """One sink, as far as this worker delivers to it; times by the monotonic clock."""

    name: str
    failures_in_a_row: int = 0
    #: How often the breaker has opened.
    breaker_openings: int = 0
    #: Entries that wait for the sink, of the whole fleet, and how many may.
    backlog: int = 0
    backlog_max: int = 0
    at_backlog_max: str = ""
    #: Stages of this worker that wait until there is room.
    holding_up: int = 0
    _breaker_open_since: float | None = None
    _backlog_full_since: float | None = None
    _paused_since: float | None = None

    @property
    def is_paused(self) -> bool:
        """Whether somebody wants nothing to be delivered."""
        return self._paused_since is not None

    def paused_s(self) -> float:
        """How long it is paused by now; 0 if it is not."""
        return _since(self._paused_since)

    def pause(self, for_s: float) -> None:
        """Note that it is paused, for so long already."""
        self._paused_since = time.monotonic() - for_s

    def resume(self) -> None:
        """Note that it is not."""
        self._paused_since = None

    @property
    def breaker_is_open(self) -> bool:
        """Whether deliveries wait until a probe succeeds."""
        return self._breaker_open_since is not None

    def breaker_open_s(self) -> float:
        """How long the breaker is open by now; 0 if it is not."""
        return _since(self._breaker_open_since)

    def open_breaker(self) -> None:
        """Note that the breaker has opened."""
        self._breaker_open_since = time.monotonic()
        self.breaker_openings += 1

    def close_breaker(self) -> None:
        """Note that a delivery was taken again."""
        self._breaker_open_since = None

    @property
    def backlog_is_full(self) -> bool:
        """Whether as many entries wait as may."""
        return self._backlog_full_since is not None

    def backlog_full_s(self) -> float:
        """How long the backlog is full by now; 0 if it is not."""
        return _since(self._backlog_full_since)

    def fill_backlog(self) -> None:
        """Note that the backlog is full."""
        self._backlog_full_since = time.monotonic()

    def empty_backlog(self) -> None:
        """Note that there is room again."""
        self._backlog_full_since = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as a worker says it of itself."""
        return {
            "paused_s": round(self.paused_s(), 1) if self.is_paused else None,
            "breaker_open_s": round(self.breaker_open_s(), 1) if self.breaker_is_open else None,
            "failures_in_a_row": self.failures_in_a_row,
            "breaker_openings": self.breaker_openings,
            "backlog_full_s": round(self.backlog_full_s(), 1) if self.backlog_is_full else None,
            "at_backlog_max": self.at_backlog_max,
        }


def told_of_sink(workers: Iterable[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Put together what the workers say of a sink (:meth:`SinkMeter.as_dict`).

    ``because`` is what keeps deliveries from it, for people; empty if nothing does.
    """
    found = [worker["sinks"][name] for worker in workers if name in worker.get("sinks", {})]
    open_s = [said["breaker_open_s"] for said in found if said["breaker_open_s"] is not None]
    full_s = [said["backlog_full_s"] for said in found if said["backlog_full_s"] is not None]
    paused_s = [said["paused_s"] for said in found if said["paused_s"] is not None]
    because = []
    if paused_s:
        because.append(f"it is paused for {max(paused_s):.0f} s")
    if full_s:
        holds = any(said["at_backlog_max"] == "hold" for said in found)
        what = "holds up the pipeline" if holds else "the oldest become dead letters"
        because.append(f"its backlog is full for {max(full_s):.0f} s: {what}")
    if open_s and not paused_s:
        where = f", at {len(open_s)} of {len(found)} workers" if len(open_s) < len(found) else ""
        because.append(f"its breaker is open for {max(open_s):.0f} s{where}")
    return {
        "because": "; ".join(because),
        "paused_s": max(paused_s, default=None),
        "breaker_open_s": max(open_s, default=None),
        "breaker_openings": sum(said["breaker_openings"] for said in found),
        "backlog_full_s": max(full_s, default=None),
    }


def _since(moment: float | None) -> float:
    return 0.0 if moment is None else time.monotonic() - moment
