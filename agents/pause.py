"""A capsule was paused: running or pausing -> paused."""

from __future__ import annotations

from agents.effects import Effects
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler, effects: Effects) -> VerbAgent:
    """Make the agent ``pause``."""
    return VerbAgent(reconciler, effects, "pause", hooks=True)
