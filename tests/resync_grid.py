"""What `resync` does, as a grid that is written down by hand.

A column is the row's status, a line what the hosts report. A cell says what comes of it::

    =          they agree
    R P S E M  the row becomes running, paused, stopped, error, missing
    m          under way, and once settled the row becomes missing
    w          under way, and once settled a conflict
    u          under way
    c          a conflict
"""

from __future__ import annotations

from typing import Final

__all__ = ["GRID", "ROW_STATUSES", "expected"]

_GRID: Final = """
             pending starting running pausing paused resuming snapshotting stopping stopped missing error
running         w       R        =       w      c       R          w          w        c       R      c
paused          w       w        P       P      =       w          w          w        c       P      c
stopped         c       c        S       c      c       c          c          S        =       =      =
error           c       E        E       E      c       E          E          c        =       =      =
missing         w       m        M       m      c       m          m          S        =       =      =
nobody          w       m        M       m      c       m          m          S        =       =      =
pending         =       u        u       u      u       u          u          u        c       c      c
starting        u       =        u       u      u       u          u          u        c       c      c
pausing         u       u        u       =      u       u          u          u        c       c      c
resuming        u       u        u       u      u       =          u          u        c       c      c
snapshotting    u       u        u       u      u       u          =          u        c       c      c
stopping        u       u        u       u      u       u          u          =        c       c      c
"""  # noqa: E501 a grid is read whole
_HEAD, *_LINES = [line.split() for line in _GRID.strip().splitlines()]

ROW_STATUSES: Final = tuple(_HEAD)
#: By what is reported, None being nobody; then by the row's status.
GRID: Final = {
    None if word == "nobody" else word: dict(zip(_HEAD, cells, strict=True))
    for word, *cells in _LINES
}
_BECOMES: Final = {"R": "running", "P": "paused", "S": "stopped", "E": "error", "M": "missing"}


def expected(
    row_status: str | None, reported: str | None, *, settled: bool
) -> tuple[str, str] | None:
    """The kind of difference and the new status, None where they agree."""
    cell = "c" if row_status not in ROW_STATUSES else GRID[reported][row_status]
    if cell in "mw":
        cell = ("M" if cell == "m" else "c") if settled else "u"
    if cell == "=":
        return None
    if cell in _BECOMES:
        return "change", _BECOMES[cell]
    return ("conflict" if cell == "c" else "under_way"), ""
