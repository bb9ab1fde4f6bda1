"""A capsule was paused: running or pausing -> paused."""

from __future__ import annotations

from agents.effects import Effects
from agents.publish import Publish
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler, effects: Effects, publish: Publish) -> VerbAgent:
    """Make the agent ``pause``."""
    return VerbAgent(reconciler, effects, "pause", publish=publish)
