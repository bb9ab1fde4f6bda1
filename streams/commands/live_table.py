"""The live topology as tables that fit a terminal, from 80 columns on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich import box
from rich.table import Column, Table
from rich.text import Text

from streams.figures.live import LiveNode, LiveTopology, State
from streams.printable import printable
from streams.short import short_age, short_number
from streams.topology import Kind

__all__ = ["as_tables"]

_STATE_STYLES: Final = {
    State.IDLE: "dim",
    State.BUSY: "green",
    State.PAUSED: "bold yellow",
    State.BLOCKED: "bold red",
    State.UNOWNED: "bold red",
}
_WORST_LAST: Final = list(State)
_OUTCOMES: Final = ("done", "skip", "retry", "dead")
_QUANTILES: Final = ("p99 ms",)
_WIDE_QUANTILES: Final = ("p50 ms", "p99 ms")
#: From so many columns on there is room for the outcomes.
_WIDE: Final = 110
#: A name is cut here, so that one long name does not take the figures' room.
_NAME_WIDTH: Final = {False: 17, True: 20}


def as_tables(live: LiveTopology, *, width: int = 120) -> list[Table | Text]:
    """Return stages, what they write into, and workers, for a terminal of `width` columns.

    What is wrong stands below the stages, a line each.
    """
    wide = width >= _WIDE
    blamed = {blame.text for blame in live.blames}
    notes = [
        Text(f"{printable(node.name)}: {printable(node.because)}", style=_STATE_STYLES[node.state])
        for node in live.nodes
        # What a stage waits for, it says itself, and names the culprit.
        if node.because and node.because not in blamed and node.kind is not Kind.AGENT
    ] + [
        Text(
            f"{printable(blame.culprit)}: {printable(blame.text)} ({printable(blame.worker)})",
            style=_STATE_STYLES[State.BLOCKED],
        )
        for blame in live.blames
    ]
    return [_stages(live, wide=wide), _ends(live, wide=wide), *notes, _workers(live)]


def _table(*columns: Column) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _name(title: str, *, wide: bool) -> Column:
    width = _NAME_WIDTH[wide]
    return Column(title, no_wrap=True, overflow="ellipsis", max_width=width)


def _numbers(*titles: str) -> list[Column]:
    return [Column(title, justify="right", no_wrap=True) for title in titles]


def _stages(live: LiveTopology, *, wide: bool) -> Table:
    """One row for each agent with what it reads, and for each stream that nobody reads."""
    nodes = {node.name: node for node in live.nodes}
    inputs = {
        edge.target: nodes[edge.source]
        for edge in live.edges
        if nodes[edge.target].kind is Kind.AGENT
    }
    into: Counter[str] = Counter()
    out: Counter[str] = Counter()
    for edge in live.edges:
        into[edge.target] += edge.per_s  # type: ignore[assignment]  # counts of any kind
        if nodes[edge.target].kind in (Kind.STREAM, Kind.CHANNEL, Kind.SINK):
            out[edge.source] += edge.per_s  # type: ignore[assignment]
    table = _table(
        _name("stage", wide=wide),
        _name("reads", wide=wide),
        *_numbers("in/s", "out/s", "waiting", "oldest", *(_WIDE_QUANTILES if wide else _QUANTILES)),
        *(_numbers(*_OUTCOMES) if wide else ()),
        Column("state", no_wrap=True, min_width=7),
    )
    unread = {node.name for node in live.nodes} - {node.name for node in inputs.values()}
    for node in live.nodes:
        if node.kind is Kind.AGENT:
            source = inputs.get(node.name)
        elif node.kind in (Kind.STREAM, Kind.CHANNEL) and node.name in unread:
            source = node
        else:
            continue
        is_read = node.kind is Kind.AGENT
        states = [found.state for found in (node, source) if found is not None]
        state = max(states, key=_WORST_LAST.index)
        table.add_row(
            Text(printable(node.name) if is_read else "nobody"),
            _read(source),
            short_number(into[node.name]),
            short_number(out[node.name]) if is_read else "",
            *_waiting(source),
            *_latencies(node.figures, wide=wide),
            *(_outcomes(node.figures) if wide else ()),
            Text(state.value, style=_STATE_STYLES[state]),
        )
    return table


def _read(source: LiveNode | None) -> Text:
    if source is None:
        return Text("")
    partitions = f" x{source.partitions}" if source.partitions > 1 else ""
    return Text(f"{printable(source.name)}{partitions}")


def _waiting(source: LiveNode | None) -> Iterable[str]:
    if source is None or source.backlog is None:
        return ("", "")
    return short_number(source.backlog.entries), short_age(source.backlog.oldest_age_s)


def _latencies(figures: Mapping[str, Any], *, wide: bool) -> Iterable[str]:
    waited = figures.get("waited_ms", {})
    shown = _WIDE_QUANTILES if wide else _QUANTILES
    return (short_number(waited.get(title.removesuffix(" ms"))) for title in shown)


def _outcomes(figures: Mapping[str, Any]) -> Iterable[str]:
    totals: Counter[str] = Counter()
    for outcome, n in figures.get("outcomes", {}).items():
        totals[outcome.partition("/")[0]] += n
    return (short_number(totals[name]) if totals[name] else "" for name in _OUTCOMES)


def _ends(live: LiveTopology, *, wide: bool) -> Table:
    """One row for each table and sink, by who writes into it."""
    table = _table(
        Column("into", overflow="fold", min_width=31),
        *_numbers("per s", "in all"),
        Column("from", overflow="fold"),
        Column("state", no_wrap=True, min_width=7),
    )
    for node in live.nodes:
        if node.kind not in (Kind.TABLE, Kind.SINK):
            continue
        edges = [edge for edge in live.edges if edge.target == node.name]
        table.add_row(
            Text(printable(node.name)),
            short_number(round(sum(edge.per_s for edge in edges), 1)),
            short_number(sum(edge.entries for edge in edges)),
            Text(", ".join(printable(edge.source) for edge in edges)),
            Text(node.state.value, style=_STATE_STYLES[node.state])
            if node.state in (State.PAUSED, State.BLOCKED)
            else "",
        )
    return table


def _workers(live: LiveTopology) -> Table:
    table = _table(
        Column("worker", overflow="fold"),
        Column("version"),
        *_numbers("up", "CPU", "MiB", "partitions"),
        Column("state", overflow="fold"),
    )
    for said in live.workers:
        numbers = sum(len(topic["numbers"]) for topic in said["partitions"].values())
        state = Text("ready", style="green")
        if said["not_ready"]:
            state = Text(f"not ready: {printable(said['not_ready'])}", style="bold red")
        table.add_row(
            Text(printable(said["worker"])),
            Text(printable(said["version"])),
            short_age(said["up_s"]),
            f"{said['cpu']:.0%}",
            f"{said['rss_bytes'] / 2**20:,.0f}",
            f"{numbers}",
            state,
        )
    return table
