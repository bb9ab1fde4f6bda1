"""What `run` shows, drawn without a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from streams.commands.live_view import LiveView, PlainView, Snapshot, picture
from streams.figures.status import StageStatus, Status
from streams.simulation.sandbox_changes import SandboxChange

NOTHING = Snapshot(worker="starting", publisher="off", status=None, events_per_s=0.0, trouble="")
EMPTY = Status(sandboxes={}, audit_rows=0, stages=[], dead_letters=0, workers={})
BUSY = Status(
    sandboxes={"error": 3, "running": 1234},
    audit_rows=7,
    stages=[StageStatus("wrenn:events", 5, 6)],
    dead_letters=2,
    workers={"somebody": 17},
)
CAPSULE = "cl-0123456789abcdefghijklmno"
CHANGE = SandboxChange(CAPSULE, "starting", "running", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def snapshot(status: Status | None, trouble: str = "") -> Snapshot:
    return Snapshot("ready", "publishing", status, 4.25, trouble)


def draw(shown: Snapshot, *changes: SandboxChange) -> list[str]:
    """The lines of the picture, without colours."""
    console = Console(file=io.StringIO(), width=100, height=30)
    with console.capture() as captured:
        console.print(picture("the title", ["a note", "another"], shown, changes, room=12))
    return captured.get().splitlines()


@pytest.mark.parametrize("shown", [NOTHING, snapshot(EMPTY)])
def test_the_picture_can_be_drawn_before_there_is_anything(shown: Snapshot) -> None:
    assert any("none yet" in line for line in draw(shown))


def test_the_picture_has_every_figure() -> None:
    text = "\n".join(draw(snapshot(BUSY), CHANGE))
    for figure in ("1,234", "wrenn:events", "4.2", "dead letters", "starting", "running", "ready"):
        assert figure in text


def test_a_capsule_is_shown_by_both_ends_of_its_id() -> None:
    assert any("cl-012345…lmno" in line for line in draw(snapshot(BUSY), CHANGE))


@pytest.mark.parametrize("height", [24, 50])
def test_the_picture_fits_the_terminal_and_shows_the_newest_changes(height: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=100, height=height)
    changes = [
        SandboxChange(f"{CAPSULE[:-2]}{n:02}", "running", "paused", CHANGE.at) for n in range(40)
    ]
    with LiveView(console, "the title", ["1", "2", "3"]) as view:
        view.show(snapshot(BUSY), changes)
    lines = screen.getvalue().split("the title", 1)[1].splitlines()
    assert len(lines) <= height
    assert any("…lm39" in line for line in lines)
    assert sum("╰" in line for line in lines) == 2  # below the panels, and at the end


def test_trouble_is_shown_in_place_of_the_last_note() -> None:
    text = "\n".join(draw(snapshot(BUSY, trouble="Postgres is [gone]")))
    assert "Postgres is [gone]" in text
    assert "a note" in text
    assert "another" not in text


def test_a_plain_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as view:
        view.show(snapshot(BUSY), [CHANGE])
        view.show(snapshot(BUSY), [])
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:] for line in lines] == [
        "worker: ready",
        "publisher: publishing",
        f"{CAPSULE} starting -> running",
    ]
