"""The app's streams as an AsyncAPI 3 document, made from the app itself.

Which channels there are and who reads and writes them is the topology's; enumerations, headers and
the fields of a dead letter are those of the code. What the code says in statements only, such as
how strictly a report is read, is said here again, and tests hold the two against each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

from streams.dead_letters.record import LETTER, DeadLetter
from streams.events import HookType, Verb
from streams.outcomes import Reason
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

_ID: Final = "[0-9a-z]{25}"
_ENTRY_ID: Final = "^(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})$"
_TIME: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_NO_NUL: Final = "^[^\\u0000]*$"
_TEXT: Final = {"type": ["string", "null"]}
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
        "components": {"messages": _messages(), "schemas": _schemas()},
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


def _schemas() -> dict[str, Any]:
    return {
        "entryId": {"type": "string", "pattern": _ENTRY_ID},
        "event": _event_schema(),
        "sandboxEvent": {
            "type": "object",
            "required": [*_EXAMPLE_DELIVERY],
            "properties": {
                "delivery_id": {
                    "$ref": "#/components/schemas/entryId",
                    "description": "The source entry's; the same at each attempt.",
                },
                "capsule_id": {"type": "string", "pattern": f"^cl-{_ID}$"},
                "team_id": {"type": ["string", "null"], "pattern": f"^team-{_ID}$"},
                "type": {"type": "string", "enum": list(get_args(HookType))},
                "occurred_at": {"type": "string", "format": "date-time", "pattern": _TIME},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "letter": _letter_schema(),
    }


def _event_schema() -> dict[str, Any]:
    """What `read_event` takes: absent and null are empty, unknown fields are ignored."""
    ours = [verb.event_name for verb in Verb]
    no_nul = {"type": ["string", "null"], "pattern": _NO_NUL}
    return {
        "type": "object",
        "properties": {
            "event": _TEXT | {"description": f"{', '.join(ours)}; all others are skipped."},
            "outcome": _TEXT | {"description": "success, or anything else: it failed."},
            "timestamp": _TEXT | {"description": "RFC 3339."},
            "team_id": _TEXT,
            "actor": {
                "type": ["object", "null"],
                "properties": {"type": _TEXT, "id": _TEXT, "name": _TEXT},
            },
            "resource": {"type": ["object", "null"], "properties": {"id": _TEXT, "type": _TEXT}},
            "metadata": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": _NO_NUL},
                "additionalProperties": no_nul,
            },
            "error": no_nul,
        },
        "if": {
            "required": ["event", "actor"],
            "properties": {
                "event": {"enum": ours},
                "actor": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"const": "system"}},
                },
            },
        },
        "then": {
            "required": ["resource"],
            "properties": {
                "resource": {
                    "type": "object",
                    "required": ["id"],
                    "properties": {
                        "id": {
                            "type": "string",
                            "pattern": f"^cl-{_ID}$",
                            "description": "In base 36, and at most 2^128 - 1.",
                        }
                    },
                }
            },
        },
    }


def _letter_schema() -> dict[str, Any]:
    """The description of a dead letter: its fields but for the payload."""
    types = {
        str: {"type": "string"},
        int: {"type": "integer"},
        float: {"type": "number"},
        int | None: {"type": ["integer", "null"]},
    }
    base64 = {"type": ["string", "null"], "contentEncoding": "base64"}
    special = {
        "key": base64,
        "fields": {"type": "array", "items": {"type": "array", "items": base64}},
        "reason": {"type": "string", "enum": [reason.value for reason in Reason]},
    }
    hints = get_type_hints(DeadLetter)
    names = [field.name for field in fields(DeadLetter) if field.name != "payload"]
    return {
        "type": "object",
        "required": names,
        "additionalProperties": False,
        "properties": {name: special.get(name) or types[hints[name]] for name in names},
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
