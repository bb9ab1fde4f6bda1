"""What the page shows of one moment, as text that is ready to be put in its place.

The server makes the text, for the first view as for each later one, so that the browser has
nothing to do but to put it there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from streams.figures.live import LiveNode, LiveTopology, State
from streams.printable import printable
from streams.topology import Kind, Topology

__all__ = ["CELLS", "Frame", "Sink", "frame_of", "ranges", "sinks_of"]

#: What is shown of a node, in this order.
CELLS: Final = (
    "state",
    "in",
    "out",
    "waiting",
    "oldest",
    "hand",
    "p50",
    "p99",
    "blocked",
    "outcomes",
)
_CAPTION_CHARS: Final = 27
_OWNER_RANGES_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class Sink:
    """A hook sink, and the numbers of its nodes in the picture."""

    name: str
    stream: int
    agent: int
    sink: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment."""

    at: str
    #: Text by the place it belongs into.
    cells: Mapping[str, str]
    #: By node (``n<number>``) and by sink (``s<number>``).
    states: Mapping[str, str]
    #: Edges (``e<number>``) that something goes over.
    flowing: list[str]
    #: Worker, version, up, CPU, memory, state, partitions.
    workers: list[list[str]]
    #: What somebody should look at, without figures, so that it changes only when it does.
    alerts: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as it goes to the browser."""
        return {
            "at": self.at,
            "cells": self.cells,
            "states": self.states,
            "flowing": self.flowing,
            "workers": self.workers,
            "alerts": self.alerts,
        }


def sinks_of(topology: Topology) -> list[Sink]:
    """The hook sinks of `topology`."""
    numbers = {node.name: number for number, node in enumerate(topology.nodes)}
    found = []
    for node in topology.nodes:
        if node.kind is Kind.SINK:
            name = node.name.removeprefix("sink.")
            found.append(
                Sink(name, numbers[f"hooks.{name}"], numbers[f"hook.{name}"], numbers[node.name])
            )
    return found


def frame_of(live: LiveTopology, sinks: Iterable[Sink]) -> Frame:
    """Put the figures of `live` into words."""
    into: Counter[str] = Counter()
    out: Counter[str] = Counter()
    cells: dict[str, str] = {}
    flowing = []
    for number, edge in enumerate(live.edges):
        into[edge.target] += edge.per_s  # type: ignore[assignment]  # a Counter adds floats as well
        out[edge.source] += edge.per_s  # type: ignore[assignment]
        cells[f"e{number}"] = _rate(edge.per_s) if edge.per_s else ""
        if edge.per_s:
            flowing.append(f"e{number}")
    states: dict[str, str] = {}
    for number, node in enumerate(live.nodes):
        states[f"n{number}"] = node.state.value
        texts = _texts(node, into[node.name], out[node.name])
        cells |= {f"n{number}.{name}": printable(text) for name, text in texts.items()}
    for number, sink in enumerate(sinks):
        state, texts = _sink(live.nodes, sink)
        states[f"s{number}"] = state.value
        cells |= {f"s{number}.{name}": printable(text) for name, text in texts.items()}
    return Frame(
        f"{datetime.fromtimestamp(live.at_s, UTC):%H:%M:%S}",
        cells,
        states,
        flowing,
        [_worker(said) for said in live.workers],
        [
            f"{printable(node.name)} is {node.state.value}"
            for node in live.nodes
            if node.state in (State.BLOCKED, State.UNOWNED)
        ]
        + [
            f"worker {printable(str(said['worker']))} is not ready"
            for said in live.workers
            if said["not_ready"]
        ]
        + [f"{printable(culprit)} is to blame" for culprit in _culprits(live)],
    )


def _culprits(live: LiveTopology) -> list[str]:
    """Who is to blame and has no box of its own in the picture."""
    drawn = {node.name for node in live.nodes}
    names = {f"worker {b.worker}" if b.culprit == "worker" else b.culprit for b in live.blames}
    return sorted(names - drawn)


def _texts(node: LiveNode, into: float, out: float) -> dict[str, str]:
    waited = node.figures.get("waited_ms", {})
    backlog = node.backlog
    waiting = f"{backlog.entries:,}" if backlog else ""
    oldest = "" if backlog is None else _age(backlog.oldest_age_s)
    outcomes = node.figures.get("outcomes", {})
    if node.because and node.state in (State.PAUSED, State.BLOCKED, State.UNOWNED):
        caption = f"{node.state.value}: {node.because}"
    elif backlog is not None:
        caption = f"{waiting} waiting" + (f", {oldest}" if oldest else "")
    elif node.kind is Kind.AGENT:
        p99 = waited.get("p99")
        caption = f"{_rate(into)}" + ("" if p99 is None else f", p99 {p99:,.0f} ms")
    else:
        caption = _rate(into)
    blocked_s = node.figures.get("blocked_total_s", 0.0)
    given = node.figures.get("input", {"capacity": 0})
    return {
        "state": node.state.value + (f": {node.because}" if node.because else ""),
        "hand": f"{given['depth']:,} of {given['capacity']:,}" if given["capacity"] else "",
        "blocked": f"{blocked_s:,.0f} s" if blocked_s >= 1 else "",
        "in": f"{into:,.1f}",
        "out": f"{out:,.1f}",
        "waiting": waiting,
        "oldest": oldest,
        "p50": _ms(waited.get("p50")),
        "p99": _ms(waited.get("p99")),
        "outcomes": ", ".join(f"{name} {n:,}" for name, n in sorted(outcomes.items())),
        "caption": short(caption),
        "label": f"{node.kind.value} {node.name}, {node.state.value}",
    }


def _sink(nodes: tuple[LiveNode, ...], sink: Sink) -> tuple[State, dict[str, str]]:
    stream, agent, end = nodes[sink.stream], nodes[sink.agent], nodes[sink.sink]
    outcomes: Counter[str] = Counter()
    for name, n in agent.figures.get("outcomes", {}).items():
        outcomes[name.partition("/")[0]] += n
    order = list(State)
    worst = max((end, agent, stream), key=lambda node: order.index(node.state))
    # The agent knows for what and for how long, the sink what somebody has decided about it.
    known = (agent.because, str(end.figures.get("because", "")))
    why = "; ".join(text for text in known if text) or worst.because
    backlog = stream.backlog
    return worst.state, {
        "state": worst.state.value + (f": {why}" if why else ""),
        "delivered": f"{outcomes['done']:,}",
        "retries": f"{outcomes['retry']:,}",
        "dead": f"{outcomes['dead']:,}",
        "waiting": f"{backlog.entries:,}" if backlog else "",
        "oldest": _age(backlog.oldest_age_s) if backlog else "",
        "blocked_by": str(agent.figures.get("blocked_by", "")),
    }


def _worker(said: Mapping[str, Any]) -> list[str]:
    not_ready = str(said["not_ready"])
    partitions = "; ".join(
        f"{topic} {ranges(held['numbers'])}" for topic, held in said["partitions"].items()
    )
    return [
        printable(text)
        for text in (
            str(said["worker"]),
            str(said["version"]),
            f"{said['up_s']:,.0f} s",
            f"{said['cpu']:.0%}",
            f"{said['rss_bytes'] / 2**20:,.0f} MiB",
            f"not ready: {not_ready}" if not_ready else "ready",
            partitions or "none",
        )
    ]


def ranges(numbers: Iterable[int]) -> str:
    """Write ``0-3, 5`` for 0, 1, 2, 3, 5; of very many pieces only the first."""
    pieces: list[list[int]] = []
    for number in sorted(numbers):
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in pieces[:_OWNER_RANGES_MAX]]
    more = len(pieces) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")


def short(text: str, chars: int = _CAPTION_CHARS) -> str:
    """Cut `text` so that it fits into a box."""
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:,.1f}/s"


def _age(age_s: float | None) -> str:
    return "" if age_s is None else f"{age_s:,.1f} s"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
