"""A contender: one event after the other, as the consumer before this project worked.

Ten entries a read; for each one UPDATE per status it may come from, until one of them matches,
perhaps an audit row, and an XACK.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

import orjson
import redis.asyncio

from benchmarks.arena import GROUP, SOURCE
from benchmarks.loop import capsule_uuid, main

_READ_COUNT: Final = 10
_FROM: Final = {
    "capsule.create": ("starting",),
    "capsule.resume": ("resuming",),
    "capsule.pause": ("running", "pausing"),
    "capsule.destroy": ("stopping", "running"),
}
_FAILED_FROM: Final = ("running", "starting", "pausing", "resuming", "snapshotting")
_TO: Final = {"capsule.pause": "paused", "capsule.destroy": "stopped"}
_SET_RUNNING: Final = """
    update sandboxes
    set status = 'running', host_ip = coalesce(nullif(%s, ''), host_ip),
        started_at = now(), last_active_at = now(), last_updated = now()
    where id = %s and status = %s
"""
_SET_STATUS: Final = """
    update sandboxes set status = %s, last_updated = now() where id = %s and status = %s
"""
_AUDIT: Final = """
    insert into audit_logs (
        id, team_id, actor_type, actor_name, resource_type, resource_id,
        action, scope, status, metadata, created_at
    )
    values (%s, %s, 'system', '', 'sandbox', %s, %s, 'team', 'error', %s, now())
"""


async def consume(client: redis.asyncio.Redis, cursor: Any) -> None:
    """Read and handle until the process is ended."""
    while True:
        answer: Any = await client.xreadgroup(
            GROUP, "one", {SOURCE: ">"}, count=_READ_COUNT, block=2_000
        )
        for _, entries in answer:
            for entry_id, fields in entries:
                await _handle(cursor, orjson.loads(fields[b"payload"]))
                await client.xack(SOURCE, GROUP, entry_id)


async def _handle(cursor: Any, event: dict[str, Any]) -> None:
    name = event["event"]
    if name not in _FROM or event["actor"]["type"] != "system":
        return
    capsule_id = capsule_uuid(event["resource"]["id"])
    if event["outcome"] != "success":
        if name in ("capsule.create", "capsule.resume"):
            await _fail(cursor, event, capsule_id)
        return
    for status in _FROM[name]:
        if name in _TO:
            await cursor.execute(_SET_STATUS, (_TO[name], capsule_id, status))
        else:
            host_ip = event["metadata"].get("host_ip", "")
            await cursor.execute(_SET_RUNNING, (host_ip, capsule_id, status))
        if cursor.rowcount:
            return


async def _fail(cursor: Any, event: dict[str, Any], capsule_id: str) -> None:
    for status in _FAILED_FROM:
        await cursor.execute(_SET_STATUS, ("error", capsule_id, status))
        if cursor.rowcount:
            break
    reason = event["metadata"].get("reason", "")
    if reason == "transient_timeout":
        return
    action = event["event"].removeprefix("capsule.")
    metadata = orjson.dumps({"reason": reason or f"{action}_failed", "error": event["error"]})
    team_id = capsule_uuid(event["team_id"])
    await cursor.execute(
        _AUDIT, (str(uuid.uuid4()), team_id, event["resource"]["id"], action, metadata.decode())
    )


if __name__ == "__main__":
    main(consume)
