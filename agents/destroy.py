"""A capsule was destroyed, on request or by itself: stopping or running -> stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.parameters import mark
from agents.reconciler import Reconciler
from agents.report import Report
from agents.verb import VerbAgent

__all__ = ["make_agent"]


def _parameters(reports: Sequence[Report]) -> Mapping[str, Any]:
    return mark(reports) | {"from_statuses": ["stopping", "running"], "to_status": "stopped"}


def make_agent(reconciler: Reconciler) -> VerbAgent:
    """Make the agent ``destroy``."""
    return VerbAgent(reconciler, "destroy", statement="status", parameters=_parameters, hooks=True)
