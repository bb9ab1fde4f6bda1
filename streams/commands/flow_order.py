"""The topology in the order in which events pass through it: sources first, ends last."""

from __future__ import annotations

from streams.topology import Edge, Kind, Node, Topology

__all__ = ["in_flow_order", "readers"]


def in_flow_order(picture: Topology) -> Topology:
    """Return `picture` with each agent behind what it reads, and behind whatever leads there.

    Agents that are equally far from the source stay in the order in which they were wired.
    """
    depths = _depths(picture)
    read_by = readers(picture)
    places = {node.name: index for index, node in enumerate(picture.nodes)}

    def place(node: Node) -> tuple[int, int, int, int]:
        if node.name in read_by:
            agent = read_by[node.name]
            return depths[agent], places[agent], 0, places[node.name]
        return depths[node.name], places[node.name], node.kind is Kind.AGENT, 0

    nodes = tuple(sorted(picture.nodes, key=place))
    order = {node.name: index for index, node in enumerate(nodes)}

    def way(edge: Edge) -> tuple[int, int]:
        return order[edge.source], order[edge.target]

    return Topology(nodes, tuple(sorted(picture.edges, key=way)))


def readers(picture: Topology) -> dict[str, str]:
    """Return the agent that reads each stream and channel, by the name of what is read."""
    kinds = {node.name: node.kind for node in picture.nodes}
    return {
        edge.source: edge.target
        for edge in picture.edges
        if kinds[edge.target] is Kind.AGENT and kinds[edge.source] is not Kind.AGENT
    }


def _depths(picture: Topology) -> dict[str, int]:
    """How many steps it is to each node, on the longest way; a circle is gone round once."""
    depths = {node.name: 0 for node in picture.nodes}
    for _ in picture.nodes:
        moved = False
        for edge in picture.edges:
            if depths[edge.target] <= depths[edge.source] < len(picture.nodes):
                depths[edge.target] = depths[edge.source] + 1
                moved = True
        if not moved:
            break
    return depths
