"""A capsule was paused: running or pausing -> paused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.parameters import mark
from agents.reconciler import Reconciler
from agents.report import Report
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def _parameters(reports: Sequence[Report]) -> Mapping[str, Any]:
    return mark(reports) | {"from_statuses": ["running", "pausing"], "to_status": "paused"}


def make_agent(reconciler: Reconciler) -> VerbAgent:
    """Make the agent ``pause``."""
    return VerbAgent(reconciler, "pause", statement="status", parameters=_parameters, hooks=True)
