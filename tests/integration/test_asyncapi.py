"""What really stands in the streams is what the AsyncAPI document says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from config.embedded import EphemeralServers
from streams.transport.bundles import messages_of
from tests.command_line import run_command
from tests.event_log import generate
from tests.reconciliation import PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually


def printed(ground: Ground, directory: Path, **settings: str) -> dict[str, Any]:
    """What the command prints for a worker's settings."""
    answer = run_command(directory, ground.settings(**settings), "asyncapi")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def entries(ground: Ground, topic: str) -> list[Mapping[bytes, bytes]]:
    """The fields of all messages that stand in a topic."""
    with ground.redis() as client:
        keys = client.keys(f"{PREFIX}{topic}:*")
        return [
            fields
            for key in keys
            for entry_id, of_entry in client.xrange(key)
            for _, fields in messages_of(entry_id, of_entry)
        ]


def headers(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        name[2:].decode(): value.decode() for name, value in fields.items() if name[:2] == b"h:"
    }


async def test_the_entries_of_a_run_are_what_the_document_says(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    log = generate(92, events=1_000, capsules=60)
    ground.load(log.rows)
    async with Receiver() as receiver:
        settings = receiver.settings()
    worker = WorkerProcess(tmp_path, **ground.settings(**settings))
    document = await asyncio.to_thread(printed, ground, tmp_path, **settings)

    def check(channel: str, fields: Mapping[bytes, bytes]) -> None:
        (name,) = document["channels"][channel]["messages"]
        message = document["components"]["messages"][name]
        assert set(headers(fields)) <= set(message["headers"]["properties"])
        Draft7Validator({**document, **message["headers"]}).validate(headers(fields))
        if message["contentType"] == "application/json":
            Draft7Validator({**document, **message["payload"]}).validate(json.loads(fields[b"v"]))

    await worker.wait_for("partitions_taken")
    # Postgres away, what was routed stays where it is; the sink away, so do its deliveries.
    servers.stop_postgres("immediate")
    ground.publish(log.entries)

    def routed() -> bool:
        with ground.redis() as client:
            (group,) = client.xinfo_groups(SOURCE)
        return bool(
            group["pending"] == 0 and group["last-delivered-id"].decode() == ground.last_id()
        )

    await eventually(routed, what="all routed")
    capsules = entries(ground, "capsules")
    letters = entries(ground, "dead-letters")
    assert len(capsules) > 100
    assert len(letters) > 10
    for fields in capsules:
        check("capsules", fields)
    for fields in letters:
        check("dead-letters", fields)
        schema = {**document, "$ref": "#/components/schemas/letter"}
        Draft7Validator(schema).validate(json.loads(headers(fields)["letter"]))
    servers.start_postgres()
    await eventually(lambda: not entries(ground, "capsules"), what="all done but the deliveries")
    deliveries = entries(ground, "hooks.receiver")
    assert len(deliveries) > 100
    for fields in deliveries:
        check("hooks-receiver", fields)
    worker.kill()
