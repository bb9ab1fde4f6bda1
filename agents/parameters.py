"""Batches as parameters: one array a column, as the statements under ``agents/sql`` take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import orjson

from agents.report import Report
from streams.events import CapsuleEvent
from streams.ids import format_capsule_id

__all__ = ["failed", "mark", "started"]

#: An audit row's id follows from its source entry, so that a second one cannot be stored.
_AUDIT_IDS: Final = UUID("6f1d2c0e-6d0b-5c7e-9a53-0c1d2f7a9e44")


def mark(reports: Sequence[Report]) -> dict[str, Any]:
    """The watermark columns: which capsule, and the two halves of the source entry's id."""
    return {
        "capsule_ids": [str(report.event.capsule_id) for report in reports],
        "ms": [report.event.source_id.ms for report in reports],
        "seq": [report.event.source_id.seq for report in reports],
    }


def started(reports: Sequence[Report], *, from_status: str) -> Mapping[str, Any]:
    """For ``running.sql``."""
    return mark(reports) | {
        "host_ips": [report.event.host_ip for report in reports],
        "from_statuses": [from_status],
    }


def failed(reports: Sequence[Report], *, from_statuses: Sequence[str]) -> Mapping[str, Any]:
    """For ``error.sql``; without an audit row to write, its columns are null."""
    events = [report.event for report in reports]
    return mark(reports) | {
        "team_ids": [None if event.team_id is None else str(event.team_id) for event in events],
        "audit_ids": [_audit_id(event) if event.audit_needed else None for event in events],
        "resource_ids": [format_capsule_id(event.capsule_id) for event in events],
        "actions": [event.verb.value for event in events],
        "metadata": [_audit_metadata(event) for event in events],
        "from_statuses": list(from_statuses),
    }


def _audit_id(event: CapsuleEvent) -> str:
    return str(uuid5(_AUDIT_IDS, f"{event.source_id}/{event.capsule_id}"))


def _audit_metadata(event: CapsuleEvent) -> str:
    metadata = {"reason": event.reason or f"{event.verb.value}_failed"}
    if event.error:
        metadata["error"] = event.error
    return orjson.dumps(metadata).decode()
