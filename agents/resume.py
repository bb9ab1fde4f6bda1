"""A capsule was resumed: resuming -> running.

The control plane usually wrote the new status itself; then the row is left as it is.
"""

from __future__ import annotations

from agents.effects import Effects
from agents.publish import Publish
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler, effects: Effects, publish: Publish) -> VerbAgent:
    """Make the agent ``resume``."""
    return VerbAgent(reconciler, effects, "resume", publish=publish)
