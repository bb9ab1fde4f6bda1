"""The JSON that a simulated control plane publishes: hosts' reports, noise, and broken ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from streams.events import Verb
from streams.ids import format_capsule_id, format_host_id, format_team_id

__all__ = ["Capsule", "bad_payload", "noise_payload", "report_payload"]

_REASONS: Final = {
    Verb.CREATE: {
        "host_full": "no host has 2 vCPUs left",
        "image_pull_failed": "pulling the template: connection reset by peer",
        "boot_timeout": "the guest did not answer within 30 s",
    },
    Verb.RESUME: {
        "snapshot_missing": "no snapshot of the capsule's memory on this host",
        "host_full": "no host has 1024 MB left",
        "": "restoring memory: unexpected end of file",
    },
    Verb.PAUSE: {"snapshot_failed": "writing the snapshot: no space left on device"},
    Verb.DESTROY: {"host_busy": "the host is draining"},
}
# The control plane gave up waiting, and has audited that itself.
_TRANSIENT: Final = ("transient_timeout", "no answer from the host")
_TRANSIENT_SHARE: Final = 0.25
_AUTONOMOUS_REASONS: Final = {Verb.PAUSE: "idle_timeout", Verb.DESTROY: "ttl_expired"}
_USERS: Final = ("Ada", "Grace", "Edsger", "Barbara")


@dataclass(slots=True, eq=False)
class Capsule:
    """A capsule; the host is the one it is on at the time."""

    id: UUID
    team_id: UUID
    host_id: UUID
    host_ip: str


def report_payload(
    rng: random.Random,
    capsule: Capsule,
    verb: Verb,
    now: datetime,
    *,
    failed: bool,
    autonomous: bool,
) -> bytes:
    """Return what the capsule's host reports."""
    event = _event(verb.event_name, capsule, now) | {"outcome": "error" if failed else "success"}
    metadata = {"host_id": format_host_id(capsule.host_id)}
    if failed:
        # Not for pause and destroy: only what was started can turn up late.
        late = verb in (Verb.CREATE, Verb.RESUME) and rng.random() < _TRANSIENT_SHARE
        reason, error = _TRANSIENT if late else rng.choice(list(_REASONS[verb].items()))
        event["error"] = error
        if reason:
            metadata["reason"] = reason
    elif verb in (Verb.CREATE, Verb.RESUME):
        metadata["host_ip"] = capsule.host_ip
    elif autonomous:
        metadata["reason"] = _AUTONOMOUS_REASONS[verb]
    return orjson.dumps(event | {"metadata": metadata})


def noise_payload(rng: random.Random, capsule: Capsule, now: datetime) -> bytes:
    """Return an event that is well formed and none of the reconciler's business."""
    name = rng.choice(
        (
            *("template.snapshot.create", "template.snapshot.delete", "host.up", "host.down"),
            *("capsule.state.changed", "capsule.state.changed"),
            *(verb.event_name for verb in Verb),
        )
    )
    event = _event(name, capsule, now) | {"outcome": "success"}
    if name.startswith("host."):
        event["resource"] = {"id": format_host_id(capsule.host_id), "type": "host"}
    elif name.startswith("template."):
        event["resource"] = {"id": f"tpl-{rng.randrange(10**6):06}", "type": "template"}
    elif name != "capsule.state.changed":
        # The request itself, which the control plane publishes as well.
        event["actor"] = _user(rng)
    return orjson.dumps(event)


def bad_payload(rng: random.Random, capsule: Capsule, now: datetime) -> bytes:
    """Return something that cannot be read as an event; about a capsule that does not exist."""
    event = _event(Verb.CREATE.event_name, capsule, now) | {"outcome": "success"}
    sound = orjson.dumps(event)
    return rng.choice(
        (
            sound[: len(sound) // 2],
            b"capsule.create " + format_capsule_id(capsule.id).encode(),
            orjson.dumps(event | {"resource": {"id": "cl-short", "type": "sandbox"}}),
            orjson.dumps(event | {"timestamp": int(now.timestamp())}),
            orjson.dumps(event | {"metadata": {"host_ip": [capsule.host_ip]}}),
        )
    )


def _event(name: str, capsule: Capsule, now: datetime) -> dict[str, Any]:
    return {
        "event": name,
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "team_id": format_team_id(capsule.team_id),
        "actor": {"type": "system"},
        "resource": {"id": format_capsule_id(capsule.id), "type": "sandbox"},
    }


def _user(rng: random.Random) -> dict[str, str]:
    if rng.random() < 0.3:
        return {"type": "api_key", "id": f"key-{rng.randrange(10**4):04}"}
    name = rng.choice(_USERS)
    return {"type": "user", "id": f"user-{name.lower()}", "name": name}
