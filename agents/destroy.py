"""A capsule was destroyed, on request or by itself: stopping or running -> stopped."""

from __future__ import annotations

from functools import partial

from agents.parameters import moved
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler) -> VerbAgent:
    """Make the agent ``destroy``."""
    return VerbAgent(
        reconciler,
        "destroy",
        statement="status",
        parameters=partial(moved, from_statuses=("stopping", "running"), to_status="stopped"),
        hooks=True,
    )
