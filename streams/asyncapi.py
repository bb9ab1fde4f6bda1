"""The app's streams as an AsyncAPI 3 document, made from the app itself.

Which channels there are and who reads and writes them is the topology's, and headers are those of
the code. What is in a message is described in :mod:`streams.asyncapi_schemas`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from streams.asyncapi_schemas import schemas
from streams.dead_letters.record import LETTER
from streams.topics import (
    PAYLOAD_FIELD,
    REPLAY_FIELD,
    REPLAY_OF,
    SOURCE_ID,
    TRACE_PARENT,
    TRACE_STATE,
    key_prefix,
)
from streams.topology import Kind, topology_of

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["document"]

_JSON: Final = "application/json"

_EXAMPLE_CAPSULE: Final = "cl-0e8g3vxjd9b6ytvw2k5q1mz7a"
_EXAMPLE_TEAM: Final = "team-0a1b2c3d4e5f6g7h8i9j0k1l2"
_EXAMPLE_ENTRY: Final = "1772366400000-0"
_EXAMPLE_EVENT: Final = {
    "event": "capsule.create",
    "outcome": "success",
    "timestamp": "2026-03-01T12:00:00Z",
    "team_id": _EXAMPLE_TEAM,
    "actor": {"type": "system"},
    "resource": {"id": _EXAMPLE_CAPSULE, "type": "sandbox"},
    "metadata": {"host_ip": "10.0.0.1"},
}
_EXAMPLE_DELIVERY: Final = {
    "delivery_id": _EXAMPLE_ENTRY,
    "capsule_id": _EXAMPLE_CAPSULE,
    "team_id": _EXAMPLE_TEAM,
    "type": "created",
    "occurred_at": "2026-03-01T12:00:00Z",
    "metadata": {"host_ip": "10.0.0.1"},
}


def document(app: ReconcilerApp, *, version: str) -> dict[str, Any]:
    """Return the document for `app` as it is set up."""
    settings = app.settings
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Capsule reconciler",
            "version": version,
            "description": (
                "Reads what hosts report about their capsules, brings Postgres in line and hands"
                " what succeeded to hook sinks, over Redis streams. An entry is read by the"
                f" consumer group {settings.app_id!r} and acknowledged when its effects are"
                " durable; each may come more than once, with the same source id."
            ),
        },
        "defaultContentType": _JSON,
        "servers": {
            "redis": {
                "host": "{host}",
                "protocol": "redis",
                "description": "Where REDIS_URL leads.",
                "variables": {"host": {"default": "localhost:6379"}},
            }
        },
        "channels": _channels(app),
        "operations": _operations(app),
        "components": {"messages": _messages(), "schemas": schemas()},
    }


def _channels(app: ReconcilerApp) -> dict[str, Any]:
    topics = app.reconciler.topics
    source = topics.source.get_topic_name()
    tag, rest = _tag(key_prefix(app.settings))
    partitions = {node.name: node.partitions for node in topology_of(app, _wiring(app)).nodes}
    found: dict[str, Any] = {
        _id(source): {
            "address": source,
            "title": "The producer's stream",
            "description": "Written, and trimmed at about 10,000 entries, by the control plane.",
            "messages": {"event": {"$ref": "#/components/messages/event"}},
            "x-redis-fields": {
                PAYLOAD_FIELD.decode(): "payload",
                **dict.fromkeys((REPLAY_FIELD.decode(), TRACE_PARENT, TRACE_STATE), "header"),
            },
        }
    }
    messages = {
        topics.capsules.get_topic_name(): "routedEvent",
        **{topic.get_topic_name(): "delivery" for topic in topics.hooks.values()},
        topics.dead_letters.get_topic_name(): "deadLetter",
    }
    for name, message in messages.items():
        numbers = [str(number) for number in range(partitions[name])]
        found[_id(name)] = {
            "address": f"{{tag}}{rest}{name}:{{partition}}",
            "title": f"The topic {name}",
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
            "parameters": {
                "tag": {
                    "description": "Braces and all: it keeps all keys in one slot of a cluster.",
                    "default": tag,
                },
                "partition": {
                    "description": "By the capsule's id, in its 16 bytes, which is the key.",
                    "enum": numbers,
                },
            },
            "x-redis-fields": {"k": "key", "v": "payload", "h:<name>": "header"},
        }
        if name != topics.dead_letters.get_topic_name():
            found[_id(name)]["x-redis-bundle"] = (
                "Several messages may share an entry: n is how many, b their fields, a list of maps"
                " in MessagePack."
            )
    return found


def _operations(app: ReconcilerApp) -> dict[str, Any]:
    """Each agent's reading of a stream and writing into one; lanes are in memory, and are not."""
    picture = topology_of(app, _wiring(app))
    kinds = {node.name: node.kind for node in picture.nodes}
    found = {}
    for edge in picture.edges:
        if kinds[edge.source] is Kind.STREAM:
            agent, stream, action = edge.target, edge.source, "receive"
        elif kinds[edge.target] is Kind.STREAM:
            agent, stream, action = edge.source, edge.target, "send"
        else:
            continue
        found[f"{_id(agent)}-{action}-{_id(stream)}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{_id(stream)}"},
            "summary": f"The agent {agent} {'reads' if action == 'receive' else 'writes'} it.",
            "x-agent": agent,
        }
    return found


def _messages() -> dict[str, Any]:
    def message(title: str, schema: str, headers: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "title": title,
            "contentType": _JSON,
            "headers": {"type": "object", "properties": dict(headers)},
            "payload": {"$ref": f"#/components/schemas/{schema}"},
            **more,
        }

    source_id = {"$ref": "#/components/schemas/entryId"}
    replay_of = {"type": "string", "description": "The dead letter that it is a replay of."}
    traced = {
        TRACE_PARENT: {
            "type": "string",
            "description": "W3C Trace Context; empty or absent: it is not traced.",
        },
        TRACE_STATE: {"type": "string"},
    }
    example_headers = {SOURCE_ID: _EXAMPLE_ENTRY}
    return {
        "event": message(
            "A host's report, or another event of the control plane",
            "event",
            {REPLAY_FIELD.decode(): replay_of, **traced},
            examples=[{"name": "created", "payload": _EXAMPLE_EVENT}],
        ),
        "routedEvent": message(
            "A report that has an effect: the payload as it came",
            "event",
            {SOURCE_ID: source_id, REPLAY_OF: replay_of, **traced},
            examples=[{"name": "created", "headers": example_headers, "payload": _EXAMPLE_EVENT}],
        ),
        "delivery": message(
            "What a hook sink is told",
            "sandboxEvent",
            {SOURCE_ID: source_id, REPLAY_OF: replay_of, **traced},
            examples=[
                {"name": "created", "headers": example_headers, "payload": _EXAMPLE_DELIVERY}
            ],
        ),
        "deadLetter": {
            "title": "An entry that could not have its effects, whole",
            "contentType": "application/octet-stream",
            "headers": {
                "type": "object",
                "required": [LETTER],
                "properties": {
                    LETTER: {
                        "type": "string",
                        "contentMediaType": _JSON,
                        "description": "JSON, as #/components/schemas/letter says.",
                    }
                },
            },
            "payload": {"description": "The payload as it came, whatever it is; or none."},
        },
    }


def _wiring(app: ReconcilerApp) -> Any:
    return app.reconciler.wiring


def _tag(prefix: str) -> tuple[str, str]:
    """Part a key prefix behind its hash tag, whose braces would be a parameter in an address."""
    end = prefix.rindex("}") + 1
    return prefix[:end], prefix[end:]


def _id(name: str) -> str:
    """A name that may be a key, and stand in a reference."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
