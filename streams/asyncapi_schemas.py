"""What is in the app's messages, as JSON schemas for its AsyncAPI document.

Enumerations and the fields of a dead letter are those of the code. What the code says in statements
only, such as how strictly a report is read, is said here again, and tests hold the two against each
other.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, get_args, get_type_hints

from streams.dead_letters.record import DeadLetter
from streams.events import HookType, Verb
from streams.outcomes import Reason

__all__ = ["schemas"]

_ID: Final = "[0-9a-z]{25}"
_ENTRY_ID: Final = "^(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})$"
_TIME: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_NO_NUL: Final = "^[^\\u0000]*$"
_TEXT: Final = {"type": ["string", "null"]}


def schemas() -> dict[str, Any]:
    """Return them by name."""
    return {
        "entryId": {"type": "string", "pattern": _ENTRY_ID},
        "event": _event_schema(),
        "sandboxEvent": _sandbox_event_schema(),
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


def _sandbox_event_schema() -> dict[str, Any]:
    """What a sink is told; each field is there."""
    properties = {
        "delivery_id": {
            "$ref": "#/components/schemas/entryId",
            "description": "The source entry's; the same at each attempt.",
        },
        "capsule_id": {"type": "string", "pattern": f"^cl-{_ID}$"},
        "team_id": {"type": ["string", "null"], "pattern": f"^team-{_ID}$"},
        "type": {"type": "string", "enum": list(get_args(HookType))},
        "occurred_at": {"type": "string", "format": "date-time", "pattern": _TIME},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    return {"type": "object", "required": [*properties], "properties": properties}


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
