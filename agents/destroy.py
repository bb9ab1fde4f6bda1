"""A capsule was destroyed, on request or by itself: stopping or running -> stopped."""

from __future__ import annotations

from agents.effects import Effects
from agents.publish import Publish
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler, effects: Effects, publish: Publish) -> VerbAgent:
    """Make the agent ``destroy``."""
    return VerbAgent(reconciler, effects, "destroy", publish=publish)
