"""``topology``: what flows where."""

from __future__ import annotations

from typing import Any

import orjson
from faust.cli.base import option
from rich.console import Console
from rich.tree import Tree

from streams.commands.command import ReconcilerCommand
from streams.topology import Kind, Node, Topology, topology_of

__all__ = ["topology"]

_STYLES = {
    Kind.STREAM: "cyan",
    Kind.CHANNEL: "blue",
    Kind.AGENT: "bold green",
    Kind.TABLE: "magenta",
    Kind.SINK: "yellow",
}


class topology(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Show the streams, agents, tables and sinks and what flows between them."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--json", "as_json", is_flag=True, help="Print nodes and edges as JSON.")
    ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; it asks no server anything."""
        picture = topology_of(self.reconciler_app, self.reconciler_app.reconciler.wiring)
        if self.kwargs["as_json"]:
            self.say(orjson.dumps(picture.as_dict(), option=orjson.OPT_INDENT_2).decode())
        else:
            Console().print(as_tree(picture))


def as_tree(picture: Topology) -> Tree:
    """Return `picture` as a tree from its sources on; what comes again is not unfolded again."""
    nodes = {node.name: node for node in picture.nodes}
    targets = {edge.target for edge in picture.edges}
    tree = Tree("[bold]wrenn capsule reconciler")
    shown: set[str] = set()

    def grow(branch: Tree, name: str) -> None:
        below = [edge.target for edge in picture.edges if edge.source == name]
        again = name in shown and bool(below)
        twig = branch.add(_label(nodes[name]) + (" [dim](see above)" if again else ""))
        if name not in shown:
            shown.add(name)
            for target in below:
                grow(twig, target)

    for node in picture.nodes:
        if node.name not in targets:
            grow(tree, node.name)
    return tree


def _label(node: Node) -> str:
    partitions = f" [dim]x{node.partitions} partitions" if node.partitions > 1 else ""
    return f"[dim]{node.kind.value}[/] [{_STYLES[node.kind]}]{node.name}[/]{partitions}"
