"""A capsule was destroyed, on request or by itself: stopping or running -> stopped."""

from __future__ import annotations

from agents.effects import Effects
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler, effects: Effects) -> VerbAgent:
    """Make the agent ``destroy``."""
    return VerbAgent(reconciler, effects, "destroy", hooks=True)
