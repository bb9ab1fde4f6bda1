"""The topology as text: whole, in the order of the flow, and safe whatever things are called."""

from __future__ import annotations

import html
import io
import re

import pytest
from rich.console import Console, RenderableType

from streams.commands.drawing import as_dot, as_mermaid, as_tree
from streams.commands.flow_order import in_flow_order
from streams.commands.live_table import as_tables
from streams.figures.backlog import Backlog
from streams.figures.live import LiveEdge, LiveNode, LiveTopology, State
from streams.short import short_age, short_number
from streams.topology import Edge, Kind, Node, Topology

HOSTILE = '"]; end --> x[/](["&lt;b>#quot; \\" \\N [red]\x1b[31m\nnext`%%{init}%%'

#: Wired in an order of its own, as agents are.
WIRED = Topology(
    nodes=(
        Node(Kind.CHANNEL, "lane.create"),
        Node(Kind.AGENT, "create"),
        Node(Kind.TABLE, "sandboxes"),
        Node(Kind.STREAM, "dead-letters"),
        Node(Kind.AGENT, "keep"),
        Node(Kind.STREAM, "hooks.billing", 16),
        Node(Kind.AGENT, "hook.billing"),
        Node(Kind.SINK, "sink.billing"),
        Node(Kind.CHANNEL, "lane.pause"),
        Node(Kind.AGENT, "pause"),
        Node(Kind.STREAM, "source"),
        Node(Kind.AGENT, "route"),
    ),
    edges=tuple(
        Edge(*pair.split(" > "))
        for pair in (
            "lane.create > create",
            "create > sandboxes",
            "create > dead-letters",
            "create > hooks.billing",
            "dead-letters > keep",
            "hooks.billing > hook.billing",
            "hook.billing > sink.billing",
            "hook.billing > dead-letters",
            "lane.pause > pause",
            "pause > hooks.billing",
            "source > route",
            "route > lane.create",
            "route > lane.pause",
            "route > dead-letters",
        )
    ),
)
PICTURE = in_flow_order(WIRED)


def live(picture: Topology) -> LiveTopology:
    """Everything at work, and something blocked."""
    nodes = tuple(
        LiveNode(
            node.kind,
            node.name,
            node.partitions,
            State.BLOCKED if node.kind is Kind.SINK else State.BUSY,
            because="it [waits] for \x1b" if node.kind is Kind.SINK else "",
            backlog=Backlog(1_234_567, 7, 98_765.0) if node.kind is Kind.STREAM else None,
            figures={
                "waited_ms": {"p50": 1234.5, "p99": 123_456.0},
                "outcomes": {"done": 12_345_678, "skip/a": 3, "skip/b": 4, "dead/x": 5},
            }
            if node.kind is Kind.AGENT
            else {},
        )
        for node in picture.nodes
    )
    worker = {
        "worker": "vm-[bold]1\x07",
        "version": "0.1.0",
        "up_s": 1e6,
        "cpu": 0.5,
        "rss_bytes": 2**28,
        "not_ready": "",
        "partitions": {},
    }
    edges = tuple(LiveEdge(e.source, e.target, 12_345_678, 23_456.7) for e in picture.edges)
    return LiveTopology(0.0, nodes, edges, (worker,))


def draw(*parts: RenderableType, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    return captured.get().splitlines()


def named(name: str) -> Topology:
    return Topology((Node(Kind.STREAM, name), Node(Kind.AGENT, "a")), (Edge(name, "a"),))


def test_the_order_is_that_of_the_flow_from_the_source_on() -> None:
    assert [node.name for node in PICTURE.nodes] == [
        "source",
        "route",
        "lane.create",
        "create",
        "lane.pause",
        "pause",
        "sandboxes",
        "hooks.billing",
        "hook.billing",
        "sink.billing",
        "dead-letters",
        "keep",
    ]
    places = {node.name: place for place, node in enumerate(PICTURE.nodes)}
    assert all(places[edge.source] < places[edge.target] for edge in PICTURE.edges)
    assert sorted(PICTURE.edges) == sorted(WIRED.edges)
    assert sorted(PICTURE.nodes) == sorted(WIRED.nodes)


def test_a_circle_has_an_order_too() -> None:
    nodes = (Node(Kind.STREAM, "s"), Node(Kind.AGENT, "a"))
    circle = in_flow_order(Topology(nodes, (Edge("s", "a"), Edge("a", "s"))))
    assert sorted(node.name for node in circle.nodes) == ["a", "s"]
    assert any("s" in line for line in draw(as_tree(circle)))


def test_the_tree_has_each_way_and_unfolds_each_thing_once() -> None:
    lines = draw(as_tree(PICTURE))
    assert lines[1].endswith("source → route")
    text = "\n".join(lines)
    assert "hooks.billing x16 → hook.billing" in text
    for target in ("hooks.billing", "dead-letters"):
        ways = [line for line in lines if target in line]
        into = [edge for edge in PICTURE.edges if edge.target == target]
        assert len(ways) == len(into)
        assert sum("elsewhere" not in line for line in ways) == 1
    assert text.count("sink.billing") == 1


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_live_tables_fit_the_terminal_with_every_figure_whole(width: int) -> None:
    parts = as_tables(live(PICTURE), width=width)
    lines = draw(*parts, width=width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for title in ("in/s", "out/s", "waiting", "oldest", "p99 ms", "state"):
        assert title in text
    assert "…" not in text
    assert "blocked" in text
    assert ("skip" in text) == (width >= 120)
    for node in PICTURE.nodes:
        assert node.name in text


def test_a_stream_that_nobody_reads_is_shown() -> None:
    alone = Topology((Node(Kind.STREAM, "alone"),), ())
    assert any("nobody" in line and "alone" in line for line in draw(*as_tables(live(alone))))


def test_text_of_strangers_is_no_markup_and_moves_no_cursor() -> None:
    picture = named(HOSTILE)
    shown = live(picture)
    for lines in (
        draw(as_tree(picture, shown), width=300),
        draw(*as_tables(shown, width=80), width=80),
        as_mermaid(picture, shown).splitlines(),
        as_dot(picture, shown).splitlines(),
    ):
        assert not {"\x1b", "\x07"} & set("".join(lines))
    assert any("[red]" in line for line in draw(as_tree(picture), width=300))
    assert any("vm-[bold]1\\x07" in line for line in draw(*as_tables(shown)))


# --- Mermaid ---

NODE = re.compile(r' {4}(n\d+)(\[/|\(\[|\[\(|\{\{|\[)"([^"]*)"(/\]|\]\)|\)\]|\}\}|\])')
ARROW = re.compile(r' {4}(n\d+) -->(?:\|"([^"]*)"\|)? (n\d+)')
PAIRS = {"[/": "/]", "([": "])", "[": "]", "[(": ")]", "{{": "}}"}


def read_mermaid(text: str) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Captions by node, and arrows with captions; anything else is a mistake."""
    first, *lines = text.split("\n")
    assert first == "flowchart TD"
    nodes: dict[str, str] = {}
    arrows = []
    for line in lines:
        if match := NODE.fullmatch(line):
            assert PAIRS[match[2]] == match[4]
            assert match[1] not in nodes
            nodes[match[1]] = decoded(match[3])
        else:
            arrow = ARROW.fullmatch(line)
            assert arrow is not None, line
            arrows.append((arrow[1], arrow[3], decoded(arrow[2] or "")))
    assert {name for arrow in arrows for name in arrow[:2]} <= set(nodes)
    return nodes, arrows


def decoded(caption: str) -> str:
    """A caption as Mermaid shows it; whatever it would take for its own is a mistake."""
    assert not set('<>&"`%;#[]{}|\\') & set(re.sub(r"#\d+;", "", caption))
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), caption)


# --- DOT ---

TOKEN = re.compile(r'\s*(?:([A-Za-z_]\w*)|"((?:[^"\\]|\\.)*)"|(->|[{}\[\];=,]))', re.DOTALL)


def read_dot(text: str) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The same of a graph, read by the grammar of the DOT language."""
    tokens: list[str] = []
    place = 0
    while place < len(text.rstrip()):
        token = TOKEN.match(text, place)
        assert token is not None, text[place:]
        tokens.append(token[0].strip())
        place = token.end()
    assert tokens[:3] == ["digraph", "reconciler", "{"]
    assert tokens[-1] == "}"
    nodes: dict[str, str] = {}
    arrows = []
    for statement in split(tokens[3:-1]):
        attributes: dict[str, str] = {}
        if "[" in statement:
            start = statement.index("[")
            assert statement[-1] == "]"
            listed = [token for token in statement[start + 1 : -1] if token != ","]
            assert listed[1::3] == ["="] * (len(listed) // 3)
            attributes = dict(zip(listed[::3], listed[2::3], strict=True))
            statement = statement[:start]
        label = shown(attributes.get("label", '""'))
        if "->" in statement:
            source, arrow, target = statement
            assert arrow == "->"
            arrows.append((source, target, label))
        elif "=" not in statement:
            [name] = statement
            nodes[name] = label
    assert {name for arrow in arrows for name in arrow[:2]} <= set(nodes)
    return nodes, arrows


def split(tokens: list[str]) -> list[list[str]]:
    statements: list[list[str]] = [[]]
    for token in tokens:
        if token == ";":
            statements.append([])
        else:
            statements[-1].append(token)
    assert statements[-1] == []
    return statements[:-1]


def shown(quoted: str) -> str:
    """A label as Graphviz shows it."""
    assert quoted.startswith('"')
    assert quoted.endswith('"')
    escapes = re.findall(r"\\(.)", quoted[1:-1])
    assert set(escapes) <= {"\\", '"'}
    return html.unescape(re.sub(r"\\(.)", r"\1", quoted[1:-1]))


READERS = [(as_mermaid, read_mermaid), (as_dot, read_dot)]


@pytest.mark.parametrize(("write", "read"), READERS)
@pytest.mark.parametrize("with_figures", [False, True])
def test_graphs_for_other_tools_have_all_nodes_and_edges(
    write: object, read: object, with_figures: bool
) -> None:
    assert callable(write)
    assert callable(read)
    nodes, arrows = read(write(PICTURE, live(PICTURE) if with_figures else None))
    names = {caption.split(":")[0].split(" x")[0]: number for number, caption in nodes.items()}
    assert set(names) == {node.name for node in PICTURE.nodes}
    pairs = [(source, target) for source, target, _ in arrows]
    assert pairs == [(names[edge.source], names[edge.target]) for edge in PICTURE.edges]
    assert {caption for _, _, caption in arrows} == {"23,456.7/s" if with_figures else ""}


@pytest.mark.parametrize(("write", "read"), READERS)
@pytest.mark.parametrize("name", [HOSTILE, "&amp;", '\\"', "\\", "ü→", "\u202e"])
def test_a_hostile_name_is_shown_as_it_is_and_nothing_more(
    write: object, read: object, name: str
) -> None:
    assert callable(write)
    assert callable(read)
    nodes, arrows = read(write(named(name)))
    assert len(nodes) == 2
    assert len(arrows) == 1
    escaped = name.replace("\x1b", "\\x1b").replace("\n", "\\n").replace("\u202e", "\\u202e")
    assert next(iter(nodes.values())) == escaped


@pytest.mark.parametrize(
    ("age_s", "text"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59, "59 s"),
        (119, "119 s"),
        (120, "2 m"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_ages_are_short(age_s: float | None, text: str) -> None:
    assert short_age(age_s) == text


@pytest.mark.parametrize(
    "value", [0, 0.1, 9.99, 99.96, 999, 9_999, 10_000, 999_999, 1e6, 1e9, 123e9, 1e15]
)
def test_numbers_are_short(value: float) -> None:
    assert 0 < len(short_number(value)) <= 6
