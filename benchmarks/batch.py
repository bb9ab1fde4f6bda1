"""A batch of events as a few statements: what a plain loop does, and no more.

No watermark, so what is delivered twice counts twice; no validation. In one go there is no order
either: of two events of one capsule in a batch the verb's place decides. In order a batch takes as
many goes as the busiest of its capsules has events.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import orjson

from benchmarks.loop import capsule_uuid

__all__ = ["apply_batch", "apply_in_order"]

_SET_RUNNING: Final = """
    update sandboxes as s
    set status = 'running', host_ip = coalesce(nullif(b.host_ip, ''), s.host_ip),
        started_at = now(), last_active_at = now(), last_updated = now()
    from unnest(%(ids)s::uuid[], %(host_ips)s::text[]) as b (id, host_ip)
    where s.id = b.id and s.status = any (%(from)s)
"""
_SET_STATUS: Final = """
    update sandboxes as s
    set status = %(to)s, last_updated = now()
    from unnest(%(ids)s::uuid[]) as b (id)
    where s.id = b.id and s.status = any (%(from)s)
"""
_AUDIT: Final = """
    insert into audit_logs (
        id, team_id, actor_type, actor_name, resource_type, resource_id,
        action, scope, status, metadata, created_at
    )
    select id, team_id, 'system', '', 'sandbox', resource_id,
        action, 'team', 'error', metadata::jsonb, now()
    from unnest(
        %(ids)s::uuid[], %(team_ids)s::uuid[], %(resource_ids)s::text[], %(actions)s::text[],
        %(metadata)s::text[]
    ) as b (id, team_id, resource_id, action, metadata)
"""
_ALIVE: Final = ["running", "starting", "pausing", "resuming", "snapshotting"]
#: By verb: the statement, and the statuses before and after.
_CHANGES: Final[dict[str, tuple[str, list[str], str]]] = {
    "capsule.create": (_SET_RUNNING, ["starting"], "running"),
    "capsule.resume": (_SET_RUNNING, ["resuming"], "running"),
    "capsule.pause": (_SET_STATUS, ["running", "pausing"], "paused"),
    "capsule.destroy": (_SET_STATUS, ["stopping", "running"], "stopped"),
    "failure": (_SET_STATUS, _ALIVE, "error"),
}


async def apply_batch(cursor: Any, payloads: Iterable[bytes | str]) -> None:
    """Have the effects of a batch in one go, verb by verb."""
    await _apply(cursor, map(orjson.loads, payloads))


async def apply_in_order(cursor: Any, payloads: Iterable[bytes | str]) -> None:
    """Have the effects of a batch: of the first event of each capsule, of the second, and so on."""
    goes: list[list[dict[str, Any]]] = []
    seen: Counter[str] = Counter()
    for payload in payloads:
        event = orjson.loads(payload)
        capsule = event["resource"]["id"]
        if seen[capsule] == len(goes):
            goes.append([])
        goes[seen[capsule]].append(event)
        seen[capsule] += 1
    for events in goes:
        await _apply(cursor, events)


async def _apply(cursor: Any, events: Iterable[dict[str, Any]]) -> None:
    by_verb: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["actor"]["type"] == "system":
            by_verb[event["event"] if event["outcome"] == "success" else "failure"].append(event)
    for verb, of_verb in by_verb.items():
        if verb not in _CHANGES:
            continue
        statement, before, after = _CHANGES[verb]
        parameters = {
            "ids": [capsule_uuid(event["resource"]["id"]) for event in of_verb],
            "host_ips": [event["metadata"].get("host_ip", "") for event in of_verb],
            "from": before,
            "to": after,
        }
        await cursor.execute(statement, parameters)
    await _audit(cursor, by_verb["failure"])


async def _audit(cursor: Any, failures: list[dict[str, Any]]) -> None:
    due = [event for event in failures if event["metadata"].get("reason") != "transient_timeout"]
    if due:
        actions = [event["event"].removeprefix("capsule.") for event in due]
        parameters = {
            "ids": [str(uuid.uuid4()) for _ in due],
            "team_ids": [capsule_uuid(event["team_id"]) for event in due],
            "resource_ids": [event["resource"]["id"] for event in due],
            "actions": actions,
            "metadata": [
                orjson.dumps(
                    {
                        "reason": event["metadata"].get("reason") or f"{action}_failed",
                        "error": event["error"],
                    }
                ).decode()
                for event, action in zip(due, actions, strict=True)
            ],
        }
        await cursor.execute(_AUDIT, parameters)
