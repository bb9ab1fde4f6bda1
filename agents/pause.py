"""A capsule was paused: running or pausing -> paused."""

from __future__ import annotations

from functools import partial

from agents.parameters import moved
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler) -> VerbAgent:
    """Make the agent ``pause``."""
    return VerbAgent(
        reconciler,
        "pause",
        statement="status",
        parameters=partial(moved, from_statuses=("running", "pausing"), to_status="paused"),
        hooks=True,
    )
