"""A capsule was resumed: resuming -> running.

The control plane usually wrote the new status itself; then the row is left as it is.
"""

from __future__ import annotations

from functools import partial

from agents.parameters import started
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler) -> VerbAgent:
    """Make the agent ``resume``."""
    return VerbAgent(
        reconciler,
        "resume",
        statement="running",
        parameters=partial(started, from_status="resuming"),
        hooks=True,
    )
