"""A create or a resume failed: whatever was alive -> error, and an audit row.

The row is written whether or not a status changed, but not for the reason
``transient_timeout``: whoever reports that has written its own.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from agents.dispatch import FAILURE
from agents.parameters import failed
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]

_ALIVE: Final = ("running", "starting", "pausing", "resuming", "snapshotting")


def make_agent(reconciler: Reconciler) -> VerbAgent:
    """Make the agent ``failure``."""
    return VerbAgent(
        reconciler,
        FAILURE,
        statement="error",
        parameters=partial(failed, from_statuses=_ALIVE),
        hooks=False,
    )
