"""Reports as parameters: one array a column, as ``agents/sql/effects.sql`` takes them.

An array is one text in Postgres' own notation: taken apart and quoted item by item it would cost
the worker more than all else that is done for a statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID, uuid5

import orjson

from agents.report import Report
from streams.events import CapsuleEvent
from streams.ids import format_capsule_id

__all__ = ["parameters_of", "waves_of"]

_NULL: Final = "NULL"
#: An audit row's id follows from its source entry, so that a second one cannot be stored.
_AUDIT_IDS: Final = UUID("6f1d2c0e-6d0b-5c7e-9a53-0c1d2f7a9e44")


def waves_of(reports: Iterable[Report]) -> list[list[Report]]:
    """Split `reports` so that each part has one of a capsule at most; none is empty.

    The later ones of a capsule are in later parts. What is in a part is in all before it.
    """
    waves: list[list[Report]] = []
    seen: dict[bytes, int] = {}
    for report in reports:
        capsule = report.event.capsule_key
        number = seen.get(capsule, 0)
        seen[capsule] = number + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(report)
    return waves


def parameters_of(wave: Sequence[Report]) -> Mapping[str, str]:
    """Return the parameters of the statement for `wave`."""
    events = [report.event for report in wave]
    return {
        "capsule_ids": _array([event.capsule_key.hex() for event in events]),
        "ms": _array([str(event.source_id.ms) for event in events]),
        "seq": _array([str(event.source_id.seq) for event in events]),
        "stages": _array([report.stage for report in wave]),
        "host_ips": _texts([event.host_ip for event in events]),
    } | _audit([event for event in events if not event.succeeded and event.audit_needed])


def _audit(events: Sequence[CapsuleEvent]) -> dict[str, str]:
    """Return the columns of the audit rows, which few batches have many of."""
    teams = [event.team_id for event in events]
    return {
        "audited_ids": _array([event.capsule_key.hex() for event in events]),
        "audit_ids": _array([_audit_id(event) for event in events]),
        "team_ids": _array([_NULL if team is None else team.hex for team in teams]),
        "resource_ids": _array([format_capsule_id(event.capsule_id) for event in events]),
        "actions": _array([event.verb.value for event in events]),
        "metadata": _texts([_audit_metadata(event) for event in events]),
    }


def _array(items: Iterable[str]) -> str:
    """An array as Postgres reads it: one text, which costs both sides far less than many."""
    return "{" + ",".join(items) + "}"


def _texts(items: Sequence[str]) -> str:
    """An array of texts from outside."""
    joined = '","'.join(items)
    if "\\" in joined or joined.count('"') > 2 * (len(items) - 1):
        escaped = (item.replace("\\", "\\\\").replace('"', '\\"') for item in items)
        joined = '","'.join(escaped)
    return f'{{"{joined}"}}' if items else "{}"


def _audit_id(event: CapsuleEvent) -> str:
    return uuid5(_AUDIT_IDS, f"{event.source_id}/{event.capsule_id}").hex


def _audit_metadata(event: CapsuleEvent) -> str:
    metadata = {"reason": event.reason or f"{event.verb.value}_failed"}
    if event.error:
        metadata["error"] = event.error
    return orjson.dumps(metadata).decode()
