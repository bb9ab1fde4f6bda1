"""Batches as parameters: one array a column, as the statements under ``agents/sql`` take them.

An array is one text in Postgres' own notation: taken apart and quoted item by item it would cost
the worker more than all else that is done for a statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import orjson

from agents.report import Report
from streams.events import CapsuleEvent
from streams.ids import format_capsule_id

__all__ = ["failed", "moved", "started"]

_NULL: Final = "NULL"
#: An audit row's id follows from its source entry, so that a second one cannot be stored.
_AUDIT_IDS: Final = UUID("6f1d2c0e-6d0b-5c7e-9a53-0c1d2f7a9e44")


def _mark(reports: Sequence[Report]) -> dict[str, Any]:
    """The watermark columns: which capsule, and the two halves of the source entry's id."""
    events = [report.event for report in reports]
    return {
        "capsule_ids": _array([event.capsule_id.hex for event in events]),
        "ms": _array([str(event.source_id.ms) for event in events]),
        "seq": _array([str(event.source_id.seq) for event in events]),
    }


def moved(
    reports: Sequence[Report], *, from_statuses: Sequence[str], to_status: str
) -> Mapping[str, Any]:
    """For ``status.sql``."""
    return _mark(reports) | {"from_statuses": _array(from_statuses), "to_status": to_status}


def started(reports: Sequence[Report], *, from_status: str) -> Mapping[str, Any]:
    """For ``running.sql``."""
    return _mark(reports) | {
        "host_ips": _array([_quoted(report.event.host_ip) for report in reports]),
        "from_statuses": _array([from_status]),
    }


def failed(reports: Sequence[Report], *, from_statuses: Sequence[str]) -> Mapping[str, Any]:
    """For ``error.sql``; without an audit row to write, its columns are null."""
    events = [report.event for report in reports]
    teams = [event.team_id for event in events]
    return _mark(reports) | {
        "team_ids": _array([_NULL if team is None else team.hex for team in teams]),
        "audit_ids": _array(
            [_audit_id(event) if event.audit_needed else _NULL for event in events]
        ),
        "resource_ids": _array([format_capsule_id(event.capsule_id) for event in events]),
        "actions": _array([event.verb.value for event in events]),
        "metadata": _array([_quoted(_audit_metadata(event)) for event in events]),
        "from_statuses": _array(from_statuses),
    }


def _array(items: Iterable[str]) -> str:
    """An array as Postgres reads it: one text, which costs both sides far less than many."""
    return "{" + ",".join(items) + "}"


def _quoted(text: str) -> str:
    """A text from outside as an item of an array."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _audit_id(event: CapsuleEvent) -> str:
    return uuid5(_AUDIT_IDS, f"{event.source_id}/{event.capsule_id}").hex


def _audit_metadata(event: CapsuleEvent) -> str:
    metadata = {"reason": event.reason or f"{event.verb.value}_failed"}
    if event.error:
        metadata["error"] = event.error
    return orjson.dumps(metadata).decode()
