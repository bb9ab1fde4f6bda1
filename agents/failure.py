"""A create or a resume failed: whatever was alive -> error, and an audit row.

The row is written whether or not a status changed, but not for the reason
``transient_timeout``: whoever reports that has written its own.
"""

from __future__ import annotations

from agents.dispatch import FAILURE
from agents.effects import Effects
from agents.publish import Publish
from agents.reconciler import Reconciler
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def make_agent(reconciler: Reconciler, effects: Effects, _: Publish) -> VerbAgent:
    """Make the agent ``failure``."""
    return VerbAgent(reconciler, effects, FAILURE, publish=None, audits=True)
