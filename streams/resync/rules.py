"""What is to become of a row, by its status and by what the hosts report of its capsule.

========================= ============================================== ======================
the hosts report          and the row says                               then the row becomes
========================= ============================================== ======================
running                   starting, resuming, missing                    running
paused                    running, pausing, missing                      paused
stopped                   running, stopping                              stopped
error                     starting, running, pausing, resuming,          error
                          snapshotting
nothing, or missing       stopping                                       stopped
nothing, or missing       running                                        missing
nothing, or missing       starting, pausing, resuming, snapshotting      missing, once settled
========================= ============================================== ======================

Where the table has no row:

* The same word on both sides, or an end on both sides (stopped, missing, error, nothing): they
  agree.
* The hosts report a transition (pending, starting, pausing, resuming, snapshotting, stopping) of
  a row that has not ended: under way. The event that ends it is still to come.
* The row is in a transition, and the hosts report running, paused or nothing: under way, and once
  settled a conflict.
* Everything else is a conflict: a person, or the control plane, must decide.

A transition has settled when the row has not changed for a while before the hosts were asked.

The first four lines are what the events do. ``missing`` is this comparison's own word, so a later
report that has the capsule takes it back. A paused capsule that nobody reports is a conflict and
not missing: it needs no host to be alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["ENDS", "STATUSES", "Kind", "Verdict", "judge"]

_TRANSITIONS: Final = frozenset(
    {"pending", "starting", "pausing", "resuming", "snapshotting", "stopping"}
)
#: Statuses of a row whose capsule is nowhere any more.
ENDS: Final = frozenset({"stopped", "missing", "error"})
STATUSES: Final = _TRANSITIONS | ENDS | {"running", "paused"}
#: A capsule that no host reports is as one that its host says it has not.
_NOTHING: Final = "missing"

_BECOMES: Final[dict[str, frozenset[str]]] = {
    "running": frozenset({"starting", "resuming", "missing"}),
    "paused": frozenset({"running", "pausing", "missing"}),
    "stopped": frozenset({"running", "stopping"}),
    "error": frozenset({"starting", "running", "pausing", "resuming", "snapshotting"}),
}
_MISSING_ONCE_SETTLED: Final = frozenset({"starting", "pausing", "resuming", "snapshotting"})


class Kind(StrEnum):
    """How a row and a report differ."""

    #: The row is to have another status.
    CHANGE = "change"
    #: They contradict each other, and no rule says who is right.
    CONFLICT = "conflict"
    #: Reported, and there is no such row.
    UNKNOWN = "unknown"
    #: The row has changed since the hosts were asked.
    NEWER = "newer"
    #: In a transition, whose end is to be waited for.
    UNDER_WAY = "under_way"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How they differ; `to` is the status that a changing row gets, empty for the others."""

    kind: Kind
    to: str = ""


def judge(row_status: str | None, reported: str | None, *, settled: bool) -> Verdict | None:
    """Return how a row and a report differ, None where they agree.

    Arguments:
        reported: None where no host reports the capsule.
        settled: whether the row has not changed for a while before the report.
    """
    said = _NOTHING if reported is None else reported
    if row_status == said or (row_status in ENDS and said in ENDS):
        return None
    if row_status in _BECOMES.get(said, ()):
        return Verdict(Kind.CHANGE, said)
    if said == _NOTHING and row_status in {"running", "stopping"}:
        return Verdict(Kind.CHANGE, "missing" if row_status == "running" else "stopped")
    if said == _NOTHING and row_status in _MISSING_ONCE_SETTLED and settled:
        return Verdict(Kind.CHANGE, "missing")
    if said in _TRANSITIONS and row_status in STATUSES - ENDS:
        return Verdict(Kind.UNDER_WAY)
    if row_status in _TRANSITIONS and said in {"running", "paused", _NOTHING} and not settled:
        return Verdict(Kind.UNDER_WAY)
    return Verdict(Kind.CONFLICT)
