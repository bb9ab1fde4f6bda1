"""Where the nodes of a topology are drawn, and the way of each edge between them.

In layers from the top: a node is one below the lowest of those it gets something from. An edge
that passes layers gets a bend in each, so that it goes between nodes and not through them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from streams.topology import Topology

__all__ = ["Box", "Drawing", "Line", "lay_out"]

#: All sizes are in the drawing's own units, which are pixels where it is not scaled.
BOX_WIDTH: Final = 168
BOX_HEIGHT: Final = 46
_GAP: Final = 18
_BEND_WIDTH: Final = 8
_LAYER_HEIGHT: Final = 96
_MARGIN: Final = 12
_SWEEPS: Final = 12

#: A node's name, or of a bend: the number of its edge and its layer.
_Slot: TypeAlias = str | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Box:
    """A node: its name and its upper left corner."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """An edge: what SVG calls the data of its path, and where its caption stands."""

    source: str
    target: str
    path: str
    caption_x: float
    caption_y: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """Everything in its place; boxes and lines in the order of the topology's nodes and edges."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def lay_out(topology: Topology) -> Drawing:
    """Return where everything is."""
    layer_of = _layers(topology)
    rows: dict[int, list[_Slot]] = defaultdict(list)
    for node in topology.nodes:
        rows[layer_of[node.name]].append(node.name)
    above: dict[_Slot, list[_Slot]] = defaultdict(list)
    below: dict[_Slot, list[_Slot]] = defaultdict(list)
    ways: list[list[_Slot]] = []
    for number, edge in enumerate(topology.edges):
        first, last = layer_of[edge.source], layer_of[edge.target]
        bends: list[_Slot] = [(number, layer) for layer in range(first + 1, last)]
        for layer, bend in enumerate(bends, first + 1):
            rows[layer].append(bend)
        way: list[_Slot] = [edge.source, *bends, edge.target]
        for upper, lower in pairwise(way):
            above[lower].append(upper)
            below[upper].append(lower)
        ways.append(way)
    centres = _place([rows[layer] for layer in sorted(rows)], above, below)
    left = min(centre - _width(slot) / 2 for slot, centre in centres.items()) - _MARGIN
    right = max(centre + _width(slot) / 2 for slot, centre in centres.items()) + _MARGIN
    tops = {slot: _MARGIN + layer * _LAYER_HEIGHT for layer, row in rows.items() for slot in row}
    return Drawing(
        round(right - left),
        2 * _MARGIN + (len(rows) - 1) * _LAYER_HEIGHT + BOX_HEIGHT,
        tuple(
            Box(node.name, round(centres[node.name] - left - BOX_WIDTH / 2, 1), tops[node.name])
            for node in topology.nodes
        ),
        tuple(
            _line(edge.source, edge.target, [(centres[s] - left, tops[s]) for s in way])
            for edge, way in zip(topology.edges, ways, strict=True)
        ),
    )


def _layers(topology: Topology) -> dict[str, int]:
    """The layer of each node; one that is its own source further up stays where it was first."""
    sources: dict[str, list[str]] = defaultdict(list)
    for edge in topology.edges:
        sources[edge.target].append(edge.source)
    known: dict[str, int] = {}

    def find(name: str, seen: frozenset[str]) -> int:
        if name not in known:
            seen |= {name}
            known[name] = max(
                (find(source, seen) + 1 for source in sources[name] if source not in seen),
                default=0,
            )
        return known[name]

    for node in topology.nodes:
        find(node.name, frozenset())
    return known


def _place(
    rows: list[list[_Slot]],
    above: dict[_Slot, list[_Slot]],
    below: dict[_Slot, list[_Slot]],
) -> dict[_Slot, float]:
    """The centre of each slot, each near the middle of those that it is connected with."""
    centres: dict[_Slot, float] = {}
    for row in rows:
        _spread(row, dict.fromkeys(row, 0.0), centres)
    for sweep in range(_SWEEPS):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = {slot: _mean([centres[s] for s in near[slot]], centres[slot]) for slot in row}
            row.sort(key=wanted.__getitem__)
            _spread(row, wanted, centres)
    return centres


def _spread(
    row: list[_Slot],
    wanted: dict[_Slot, float],
    centres: dict[_Slot, float],
) -> None:
    """Put a row's slots where they are wanted, as far as they do not overlap."""
    edge = float("-inf")
    for slot in row:
        centres[slot] = max(wanted[slot], edge + _width(slot) / 2)
        edge = centres[slot] + _width(slot) / 2 + _GAP
    # Pushed to the right by their neighbours: all back by as much as they are off on average.
    shift = _mean([wanted[slot] - centres[slot] for slot in row], 0.0)
    for slot in row:
        centres[slot] += shift


def _width(slot: _Slot) -> float:
    return BOX_WIDTH if isinstance(slot, str) else _BEND_WIDTH


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _line(source: str, target: str, points: list[tuple[float, float]]) -> Line:
    x, y = points[0][0], points[0][1] + BOX_HEIGHT
    parts = [f"M{x:.1f} {y:.1f}"]
    caption: tuple[float, float] | None = None
    for number, (x_next, top) in enumerate(points[1:], 1):
        middle = (y + top) / 2
        parts.append(f"C{x:.1f} {middle:.1f} {x_next:.1f} {middle:.1f} {x_next:.1f} {top:.1f}")
        caption = caption or ((x + x_next) / 2, middle)
        x, y = x_next, float(top)
        if number < len(points) - 1:  # past a bend, straight down
            y = top + BOX_HEIGHT
            parts.append(f"V{y:.1f}")
    assert caption is not None  # noqa: S101 - an edge has two ends
    return Line(source, target, " ".join(parts), round(caption[0], 1), round(caption[1], 1))
