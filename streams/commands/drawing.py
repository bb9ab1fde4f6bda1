"""The topology as text: a tree for people, Mermaid and DOT for other tools."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from rich.markup import escape
from rich.tree import Tree

from streams.commands.flow_order import readers
from streams.figures.live import LiveNode, LiveTopology, State
from streams.printable import printable
from streams.short import short_age, short_number
from streams.topology import Kind, Node, Topology

__all__ = ["as_dot", "as_mermaid", "as_tree"]

_STYLES: Final = {
    Kind.STREAM: "cyan",
    Kind.CHANNEL: "blue",
    Kind.AGENT: "bold green",
    Kind.TABLE: "magenta",
    Kind.SINK: "yellow",
}
_MERMAID_SHAPES: Final = {
    Kind.STREAM: ("[/", "/]"),
    Kind.CHANNEL: ("([", "])"),
    Kind.AGENT: ("[", "]"),
    Kind.TABLE: ("[(", ")]"),
    Kind.SINK: ("{{", "}}"),
}
_DOT_SHAPES: Final = {
    Kind.STREAM: "parallelogram",
    Kind.CHANNEL: "oval",
    Kind.AGENT: "box",
    Kind.TABLE: "cylinder",
    Kind.SINK: "hexagon",
}


def as_tree(picture: Topology, live: LiveTopology | None = None) -> Tree:
    """Return `picture`, in the order of the flow, as a tree from its sources on.

    A stream or channel stands in one line with the agent that reads it. What many lead to is
    unfolded once, as near to the root as it comes.
    """
    nodes = {node.name: node for node in picture.nodes}
    known = {node.name: node for node in live.nodes} if live else {}
    rates = {(edge.source, edge.target): edge.per_s for edge in live.edges} if live else {}
    read_by = readers(picture)
    below: dict[str, list[str]] = {node.name: [] for node in picture.nodes}
    for edge in picture.edges:
        if read_by.get(edge.source) != edge.target:
            below[edge.source].append(edge.target)
    targets = {edge.target for edge in picture.edges}
    roots = [node.name for node in picture.nodes if node.name not in targets]
    unfolded_by = _nearest_parents(roots or [picture.nodes[0].name], below, read_by)
    tree = Tree("[bold]wrenn capsule reconciler")

    def grow(branch: Tree, name: str, parent: str) -> None:
        agent = read_by.get(name)
        children = below[agent or name]
        elsewhere = bool(agent or children) and unfolded_by[name] != parent
        rate = rates.get((parent, name))
        label = _label(nodes[name], None if elsewhere else known.get(name), rate)
        if agent is not None:
            live_agent = None if elsewhere else known.get(agent)
            label += f" [dim]→[/] {_label(nodes[agent], live_agent, None)}"
        twig = branch.add(label + (" [dim](elsewhere)" if elsewhere else ""))
        if not elsewhere:
            for child in children:
                grow(twig, child, agent or name)

    for root in roots or [picture.nodes[0].name]:
        grow(tree, root, "")
    return tree


def _nearest_parents(
    roots: list[str], below: dict[str, list[str]], read_by: dict[str, str]
) -> dict[str, str]:
    """Below which node each one is unfolded: the first that is nearest to a root."""
    parents = dict.fromkeys(roots, "")
    row = list(roots)
    while row:
        names = [read_by.get(name, name) for name in row]
        row = []
        for name in names:
            for child in below[name]:
                if child not in parents:
                    parents[child] = name
                    row.append(child)
    return parents


def _label(node: Node, live: LiveNode | None, per_s: float | None) -> str:
    partitions = f" [dim]x{node.partitions}[/]" if node.partitions > 1 else ""
    label = f"[{_STYLES[node.kind]}]{escape(printable(node.name))}[/]{partitions}"
    figures = [] if per_s is None else [f"{short_number(per_s)}/s"]
    if live is not None and live.backlog is not None and live.backlog.entries:
        age = short_age(live.backlog.oldest_age_s)
        figures.append(f"{short_number(live.backlog.entries)} waiting{age and f' for {age}'}")
    label += f" [dim]{', '.join(figures)}[/]" if figures else ""
    if live is not None and live.state in (State.PAUSED, State.BLOCKED, State.UNOWNED):
        label += f" [bold red]{escape(printable(live.because or live.state.value))}[/]"
    return label


def as_mermaid(picture: Topology, live: LiveTopology | None = None) -> str:
    """Return a Mermaid flow chart; with figures where there are some."""
    numbers = {node.name: f"n{index}" for index, node in enumerate(picture.nodes)}
    lines = ["flowchart TD"]
    for node in picture.nodes:
        before, after = _MERMAID_SHAPES[node.kind]
        caption = _for_mermaid(_caption(node, live))
        lines.append(f'    {numbers[node.name]}{before}"{caption}"{after}')
    for source, target, caption in _captions(picture, live):
        arrow = f'-->|"{_for_mermaid(caption)}"|' if caption else "-->"
        lines.append(f"    {numbers[source]} {arrow} {numbers[target]}")
    return "\n".join(lines)


def as_dot(picture: Topology, live: LiveTopology | None = None) -> str:
    """Return a graph for Graphviz; with figures where there are some."""
    numbers = {node.name: f"n{index}" for index, node in enumerate(picture.nodes)}
    lines = ["digraph reconciler {", "    rankdir=TB;"]
    for node in picture.nodes:
        caption = _for_dot(_caption(node, live))
        shape = _DOT_SHAPES[node.kind]
        lines.append(f'    {numbers[node.name]} [shape={shape}, label="{caption}"];')
    for source, target, caption in _captions(picture, live):
        label = f' [label="{_for_dot(caption)}"]' if caption else ""
        lines.append(f"    {numbers[source]} -> {numbers[target]}{label};")
    return "\n".join([*lines, "}"])


def _caption(node: Node, live: LiveTopology | None) -> str:
    partitions = f" x{node.partitions}" if node.partitions > 1 else ""
    if live is not None:
        for known in live.nodes:
            if known.name == node.name and known.backlog is not None:
                return f"{node.name}{partitions}: {known.backlog.entries} waiting"
    return f"{node.name}{partitions}"


def _captions(picture: Topology, live: LiveTopology | None) -> Iterable[tuple[str, str, str]]:
    rates = {(e.source, e.target): e.per_s for e in live.edges} if live else {}
    for edge in picture.edges:
        rate = rates.get((edge.source, edge.target))
        yield edge.source, edge.target, "" if rate is None else f"{rate:,.1f}/s"


def _for_mermaid(text: str) -> str:
    """Inside double quotes Mermaid still reads entities, HTML and Markdown, and takes no quote."""
    return re.sub(r"[^\w .,:/()-]", lambda found: f"#{ord(found[0])};", printable(text))


def _for_dot(text: str) -> str:
    """A label's backslash begins an escape, its ampersand an HTML entity."""
    shown = printable(text).replace("&", "&amp;")
    return shown.replace("\\", "\\\\").replace('"', '\\"')
