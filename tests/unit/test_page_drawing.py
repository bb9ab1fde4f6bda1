"""The picture of the flow: everything is in it, nothing lies on top of something else."""

from __future__ import annotations

import random

import pytest

from streams.topology import Edge, Kind, Node, Topology
from streams.web.frame import ranges
from streams.web.layout import BOX_HEIGHT, BOX_WIDTH, lay_out


def some_topology(seed: int) -> Topology:
    """Edges lead onward, over one layer or several; about one in ten leads back."""
    rng = random.Random(seed)
    names = [f"n{number}" for number in range(rng.randint(1, 40))]
    edges = set()
    for _ in range(rng.randint(0, 80) if len(names) > 1 else 0):
        first, last = sorted(rng.sample(range(len(names)), 2))
        if rng.random() < 0.1:
            first, last = last, first
        edges.add(Edge(names[first], names[last]))
    return Topology(tuple(Node(Kind.AGENT, name) for name in names), tuple(sorted(edges)))


@pytest.mark.parametrize("seed", range(30))
def test_no_node_lies_on_another_and_all_are_in_the_picture(seed: int) -> None:
    topology = some_topology(seed)
    drawing = lay_out(topology)
    assert [box.name for box in drawing.boxes] == [node.name for node in topology.nodes]
    assert len(drawing.lines) == len(topology.edges)
    for number, box in enumerate(drawing.boxes):
        assert 0 <= box.x <= drawing.width - BOX_WIDTH
        assert 0 <= box.y <= drawing.height - BOX_HEIGHT
        for other in drawing.boxes[number + 1 :]:
            assert abs(box.y - other.y) >= BOX_HEIGHT or abs(box.x - other.x) >= BOX_WIDTH


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([5], "5"),
        ([3, 1, 2, 0, 5], "0-3, 5"),
        (range(0, 64, 2), "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22 and 20 more"),
    ],
)
def test_partitions_are_written_short(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
