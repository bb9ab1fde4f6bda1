"""What a log of events must come to, worked out one entry after the other.

Written from the contract's table, not from the code under test: it shares no line with it, is slow,
and is meant to be read beside the table. Each source entry counts once, in stream order.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

PAYLOAD_MAX_BYTES = 262_144
Entry = tuple[str, bytes | None]

BECOMES_RUNNING_FROM = {"create": ["starting"], "resume": ["resuming"]}
BECOMES_PAUSED_FROM = ["running", "pausing"]
BECOMES_STOPPED_FROM = ["stopping", "running"]
BECOMES_ERROR_FROM = ["running", "starting", "pausing", "resuming", "snapshotting"]
HOOK_TYPES = {"create": "created", "resume": "resumed", "pause": "paused", "destroy": "destroyed"}


@dataclass
class Row:
    """A row of ``sandboxes``, and which of its times the reconciler has set."""

    status: str
    team_id: UUID
    host_ip: str = ""
    started_at_set: bool = False  # and last_active_at, always together
    last_updated_set: bool = False


@dataclass(frozen=True)
class AuditRow:
    """A row of ``audit_logs``; what is the same in all of them is left out."""

    team_id: UUID
    resource_id: str
    action: str
    metadata: dict[str, str]
    entry_id: str


@dataclass(frozen=True)
class Delivery:
    """What every hook sink gets once at the least."""

    delivery_id: str
    type: str
    capsule_id: UUID
    team_id: UUID | None
    metadata: dict[str, str]


@dataclass
class Outcome:
    """What is left when all entries have been dealt with."""

    rows: dict[UUID, Row]
    audit: list[AuditRow] = field(default_factory=list)
    deliveries: dict[UUID, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    dead_lettered: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)


class BadEntryError(Exception):
    """The entry has to be dead-lettered."""


def replay(rows: Mapping[UUID, Row], entries: Iterable[Entry]) -> Outcome:
    """Apply the entries in the order given to copies of the rows."""
    outcome = Outcome(rows={capsule_id: copy(row) for capsule_id, row in rows.items()})
    for entry_id, payload in entries:
        try:
            applied = _apply(outcome, entry_id, payload)
        except BadEntryError:
            outcome.dead_lettered.append(entry_id)
        else:
            (outcome.done if applied else outcome.skipped).append(entry_id)
    return outcome


def _apply(outcome: Outcome, entry_id: str, payload: bytes | None) -> bool:
    if any(int(part) >= 2**63 for part in entry_id.split("-")):
        raise BadEntryError("id")
    event = _decode(payload)
    if event["event"] not in {f"capsule.{verb}" for verb in HOOK_TYPES}:
        return False
    if event["actor"]["type"] != "system":
        return False
    verb = event["event"].removeprefix("capsule.")
    capsule_id = _uuid("cl-", event["resource"]["id"])
    if capsule_id is None:
        raise BadEntryError("resource.id")
    team_id = _uuid("team-", event["team_id"])
    row = outcome.rows.get(capsule_id)

    if event["outcome"] == "success":
        _succeed(row, verb, event["metadata"])
        outcome.deliveries[capsule_id].append(
            Delivery(entry_id, HOOK_TYPES[verb], capsule_id, team_id, event["metadata"])
        )
        return True
    if verb in {"pause", "destroy"}:
        return False
    audit = _audit_row(entry_id, verb, event, team_id or (row.team_id if row else None))
    if audit is not None:
        outcome.audit.append(audit)
    if row is not None and row.status in BECOMES_ERROR_FROM:
        row.status = "error"
        row.last_updated_set = True
    return True


def _succeed(row: Row | None, verb: str, metadata: dict[str, str]) -> None:
    if row is None:
        return
    if verb in {"create", "resume"} and row.status in BECOMES_RUNNING_FROM[verb]:
        row.status = "running"
        row.host_ip = metadata.get("host_ip") or row.host_ip
        row.started_at_set = True
        row.last_updated_set = True
    elif verb == "pause" and row.status in BECOMES_PAUSED_FROM:
        row.status = "paused"
        row.last_updated_set = True
    elif verb == "destroy" and row.status in BECOMES_STOPPED_FROM:
        row.status = "stopped"
        row.last_updated_set = True


def _audit_row(
    entry_id: str, action: str, event: dict[str, Any], team_id: UUID | None
) -> AuditRow | None:
    reason = event["metadata"].get("reason", "")
    if reason == "transient_timeout":
        return None
    if team_id is None:
        raise BadEntryError("no team")
    metadata = {"reason": reason or f"{action}_failed"}
    if event["error"]:
        metadata["error"] = event["error"]
    return AuditRow(team_id, event["resource"]["id"], action, metadata, entry_id)


def _uuid(prefix: str, text: str) -> UUID | None:
    if not re.fullmatch(prefix + "[0-9a-z]{25}", text):
        return None
    number = int(text.removeprefix(prefix), 36)
    return UUID(int=number) if number < 2**128 else None


def _decode(payload: bytes | None) -> dict[str, Any]:
    """Return the event with every known field present; absent and null ones are empty."""
    if payload is None or len(payload) > PAYLOAD_MAX_BYTES:
        raise BadEntryError("payload")
    try:
        tree = json.loads(
            payload.decode(),
            object_pairs_hook=_object_of_distinct_keys,
            parse_constant=_number,
            parse_float=_number,
            parse_int=_number,
        )
        json.dumps(tree, ensure_ascii=False).encode()  # fails on lone surrogates
    except (ValueError, RecursionError) as error:
        raise BadEntryError("payload") from error
    if tree is None:
        raise BadEntryError("payload")
    event = _shaped(tree, {"event", "outcome", "timestamp", "team_id", "error"})
    event["actor"] = _shaped(event.get("actor"), {"type", "id", "name"})
    event["resource"] = _shaped(event.get("resource"), {"type", "id"})
    metadata = event.get("metadata")
    names = set(metadata) if isinstance(metadata, dict) else set()
    event["metadata"] = _shaped(metadata, names)
    texts = [event["error"], *event["metadata"], *event["metadata"].values()]
    if any("\0" in text for text in texts):
        raise BadEntryError("NUL")
    return event


def _shaped(value: object, text_fields: set[str]) -> dict[str, Any]:
    fields = {} if value is None else value
    if not isinstance(fields, dict):
        raise BadEntryError("not an object")
    texts = {name: "" if fields.get(name) is None else fields[name] for name in text_fields}
    if not all(isinstance(text, str) for text in texts.values()):
        raise BadEntryError("not a text")
    return {**fields, **texts}


def _object_of_distinct_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number
