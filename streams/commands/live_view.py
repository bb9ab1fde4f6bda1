"""How ``run`` looks: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streams.figures.status import Status
from streams.simulation.sandbox_changes import SandboxChange

__all__ = ["LiveView", "PlainView", "Snapshot", "View", "picture"]

_SUMMARY_EVERY_S: Final = 5.0
_CHANGES_SHOWN: Final = 12
#: Lines of the picture that are not changes.
_FIXED_LINES: Final = 18
_PANEL_LINES: Final = 11
_COLOURS: Final = {
    "running": "green",
    "paused": "blue",
    "stopped": "bright_black",
    "error": "red",
    "missing": "red",
}
_PASSING_COLOUR: Final = "yellow"
_STATE_COLOURS: Final = {"ready": "green", "publishing": "green", "off": "bright_black"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is shown but the changes."""

    worker: str
    publisher: str
    #: None before the first figures are there.
    status: Status | None
    events_per_s: float
    #: Why the figures are old; empty if they are not.
    trouble: str


class View(AbstractContextManager["View"]):
    """Shows snapshots and changes for as long as it is entered."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def show(self, snapshot: Snapshot, changes: Sequence[SandboxChange]) -> None:
        """Show how it stands, and what has changed since the last call."""
        raise NotImplementedError


class PlainView(View):
    """One line for each change, and one with the figures every 5 s."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._summary_due = monotonic() + _SUMMARY_EVERY_S

    def show(self, snapshot: Snapshot, changes: Sequence[SandboxChange]) -> None:
        """Print what is new."""
        states = {
            "worker": snapshot.worker,
            "publisher": snapshot.publisher,
            "trouble": snapshot.trouble,
        }
        for name, state in states.items():
            if state != self._states.get(name, ""):
                _print_line(datetime.now().astimezone(), f"{name}: {state or 'none'}")
        self._states = states
        for change in changes:
            _print_line(change.at, f"{change.capsule_id} {_arrow(change)}")
        if monotonic() >= self._summary_due and snapshot.status is not None:
            self._summary_due = monotonic() + _SUMMARY_EVERY_S
            _print_line(datetime.now().astimezone(), summary(snapshot, snapshot.status))


class LiveView(View):
    """A picture of the whole that is drawn again and again."""

    def __init__(self, console: Console, title: str, notes: Sequence[str]) -> None:
        self._console = console
        self._title = title
        self._notes = notes
        self._changes: deque[SandboxChange] = deque(maxlen=_CHANGES_SHOWN)
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> LiveView:
        """Take over the terminal."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        self._live.stop()

    def show(self, snapshot: Snapshot, changes: Sequence[SandboxChange]) -> None:
        """Draw the picture."""
        self._changes.extend(changes)
        room = max(3, min(_CHANGES_SHOWN, self._console.height - _FIXED_LINES))
        shown = list(self._changes)[-room:]
        self._live.update(picture(self._title, self._notes, snapshot, shown, room), refresh=True)


def picture(
    title: str,
    notes: Sequence[str],
    snapshot: Snapshot,
    changes: Sequence[SandboxChange],
    room: int,
) -> RenderableType:
    """Return the whole picture, with `room` lines for changes."""
    lines = [Text(note, style="dim", no_wrap=True, overflow="ellipsis") for note in notes]
    if snapshot.trouble:
        lines[-1] = Text(snapshot.trouble, style="red", no_wrap=True, overflow="ellipsis")
    panels = Table.grid(expand=True)
    for ratio in (2, 3, 2):
        panels.add_column(ratio=ratio)
    panels.add_row(
        _panel("sandboxes", _sandboxes(snapshot.status)),
        _panel("streams", _streams(snapshot.status)),
        _panel("figures", _figures(snapshot)),
    )
    return Group(
        _header(title, snapshot),
        *lines,
        panels,
        Panel(_change_table(changes, room), title="changes of sandboxes", title_align="left"),
    )


def summary(snapshot: Snapshot, status: Status) -> str:
    """Return the figures in one line."""
    sandboxes = ", ".join(f"{name} {count}" for name, count in status.sandboxes.items())
    return (
        f"sandboxes: {sandboxes or 'none'} | audit rows {status.audit_rows}"
        f" | backlog {status.backlog} | dead letters {status.dead_letters}"
        f" | {snapshot.events_per_s:.1f} events/s"
    )


def _print_line(at: datetime, text: str) -> None:
    print(f"{at.astimezone():%H:%M:%S} {text}", flush=True)


def _arrow(change: SandboxChange) -> str:
    return f"{change.before or '(new)'} -> {change.after}"


def _shortened(capsule_id: str) -> str:
    return f"{capsule_id[:9]}…{capsule_id[-4:]}"


def _coloured(status: str) -> str:
    return f"[{_COLOURS.get(status, _PASSING_COLOUR)}]{escape(status)}[/]"


def _state(name: str, state: str) -> str:
    colour = _STATE_COLOURS.get(state.partition(" ")[0], "yellow")
    return f"{name} [{colour}]●[/] {escape(state)}"


def _header(title: str, snapshot: Snapshot) -> RenderableType:
    header = Table.grid(expand=True, padding=(0, 2))
    header.add_column(no_wrap=True)
    header.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    header.add_column(no_wrap=True, justify="right")
    header.add_row(
        f"[bold]{escape(title)}",
        f"{_state('worker', snapshot.worker)}   {_state('publisher', snapshot.publisher)}",
        f"{datetime.now().astimezone():%H:%M:%S}",
    )
    return header


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=title, title_align="left", height=_PANEL_LINES)


def _rows(rows: Sequence[tuple[str, ...]], *, header: Sequence[str] = ()) -> RenderableType:
    if not rows:
        return Text("none yet", style="dim")
    table = Table(box=None, expand=True, show_header=bool(header), pad_edge=False)
    for n, name in enumerate(header or rows[0]):
        table.add_column(
            name if header else "",
            justify="right" if n else "left",
            header_style="dim",
            no_wrap=True,
            ratio=None if n else 1,
        )
    for row in rows:
        table.add_row(*row)
    return table


def _sandboxes(status: Status | None) -> RenderableType:
    counts = status.sandboxes if status else {}
    return _rows([(_coloured(name), f"{count:,}") for name, count in counts.items()])


def _streams(status: Status | None) -> RenderableType:
    stages = status.stages if status else []
    return _rows(
        [(escape(s.stream), f"{s.waiting:,}", f"{s.pending:,}") for s in stages],
        header=("", "waiting", "in hand"),
    )


def _figures(snapshot: Snapshot) -> RenderableType:
    status = snapshot.status
    if status is None:
        return Text("")
    dead = f"{status.dead_letters:,}"
    return _rows(
        [
            ("events/s", f"{snapshot.events_per_s:.1f}"),
            ("backlog", f"{status.backlog:,}"),
            ("audit rows", f"{status.audit_rows:,}"),
            ("dead letters", f"[red]{dead}[/]" if status.dead_letters else dead),
        ]
    )


def _change_table(changes: Sequence[SandboxChange], room: int) -> RenderableType:
    table = Table.grid(padding=(0, 3))
    if not changes:
        table.add_row("[dim]none yet[/]", "", "")
    for change in changes:
        before = _coloured(change.before) if change.before else "[dim](new)[/]"
        table.add_row(
            f"[dim]{change.at.astimezone():%H:%M:%S}[/]",
            _shortened(change.capsule_id),
            f"{before} -> {_coloured(change.after)}",
        )
    for _ in range(room - max(1, len(changes))):
        table.add_row("", "", "")
    return table
