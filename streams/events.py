"""What the control plane puts on ``wrenn:events``, read strictly, and what a hook sink gets.

`read_event` is the one place where a payload nobody vouches for becomes a value the rest may
trust. It has three answers: an event to apply, a rule by which the entry is skipped, or what is
wrong with it. The field names and the rules are those of the producer's contract.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple
from uuid import UUID

import orjson

from streams.ids import (
    InvalidIdError,
    excerpt,
    format_capsule_id,
    format_team_id,
    parse_capsule_id,
    parse_capsule_key,
    parse_team_id,
)
from streams.plain_payload import read_plain
from streams.strict_json import (
    MalformedError,
    dotted,
    object_field,
    parse_object,
    parse_rfc3339,
    text_field,
    text_map_field,
)

PAYLOAD_MAX_BYTES = 262_144

HookType = Literal["created", "paused", "resumed", "destroyed"]

_UINT64_MAX = 2**64 - 1
_INT64_MAX = 2**63 - 1  # Postgres has no unsigned integers to keep a source id in.

_ZERO = ord("0")
_ENTRY_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")
_new_tuple = tuple.__new__  # a NamedTuple's own is a function in Python, which takes twice as long


class EntryId(NamedTuple):
    """The id of an entry of a Redis stream; ordered as Redis orders them."""

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: bytes | str) -> EntryId:
        """Read ``ms-seq`` as Redis writes it; raises ValueError for anything else."""
        if isinstance(text, bytes):
            # Nearly all ids, without the pattern: up to 19 digits are below 2**64 in any case.
            ms, _, seq = text.partition(b"-")
            if (
                ms.isdigit()
                and seq.isdigit()
                and len(ms) < 20 > len(seq)
                and ms[0] != _ZERO
                and (seq[0] != _ZERO or seq == b"0")
            ):
                return _new_tuple(cls, (int(ms), int(seq)))
            text = text.decode("ascii", "replace")
        match = _ENTRY_ID.fullmatch(text)
        if match is not None:
            entry_id = cls(int(match[1]), int(match[2]))
            if max(entry_id) <= _UINT64_MAX:
                return entry_id
        raise ValueError(f"expected a stream entry id, ms-seq, got {excerpt(text)}")

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


class Verb(StrEnum):
    """What was done to a capsule."""

    CREATE = "create"
    RESUME = "resume"
    PAUSE = "pause"
    DESTROY = "destroy"

    @property
    def event_name(self) -> str:
        """The name of the event on the stream, such as ``capsule.create``."""
        return f"capsule.{self.value}"

    @property
    def hook_type(self) -> HookType:
        """What a hook sink calls it, such as ``created``."""
        return _HOOK_TYPES[self]


_HOOK_TYPES: dict[Verb, HookType] = {
    Verb.CREATE: "created",
    Verb.RESUME: "resumed",
    Verb.PAUSE: "paused",
    Verb.DESTROY: "destroyed",
}
_HOOK_TYPE_NAMES: dict[str, HookType] = {name: name for name in _HOOK_TYPES.values()}
_VERBS = {verb.event_name: verb for verb in Verb}
# A pause or a destroy that failed changes nothing, so nothing follows from the report.
_FAILURE_COUNTS = frozenset({Verb.CREATE, Verb.RESUME})


@dataclass(slots=True)  # not frozen: it would take three times as long to make
class CapsuleEvent:
    """A host's report that has an effect; texts that were absent are empty."""

    source_id: EntryId
    verb: Verb
    succeeded: bool
    #: The 16 bytes of its id: quicker to make, to compare and to look up than a UUID.
    capsule_key: bytes
    #: As it came; whose id it is, if anybody's, says :attr:`team_id`.
    team: str
    timestamp: str
    metadata: Mapping[str, str]
    error: str

    @property
    def capsule_id(self) -> UUID:
        """The capsule."""
        return UUID(bytes=self.capsule_key)

    @property
    def team_id(self) -> UUID | None:
        """The team, where one was named rightly; most effects ask for none."""
        try:
            return parse_team_id(self.team) if self.team else None
        except InvalidIdError:
            return None

    @property
    def host_ip(self) -> str:
        """The address of the capsule's host; empty means: leave the column as it is."""
        return self.metadata.get("host_ip", "")

    @property
    def reason(self) -> str:
        """Why it failed, in one word; may be empty."""
        return self.metadata.get("reason", "")

    @property
    def audit_needed(self) -> bool:
        """Whether an audit row is due: for failures the control plane has not audited itself."""
        return not self.succeeded and self.reason != "transient_timeout"


class SkipRule(StrEnum):
    """Why an entry that is well formed has no effect."""

    OTHER_EVENT = "other_event"
    OTHER_ACTOR = "other_actor"
    NO_EFFECT = "no_effect"


@dataclass(frozen=True, slots=True)
class Skip:
    """An entry to acknowledge without further work."""

    rule: SkipRule


@dataclass(frozen=True, slots=True)
class Bad:
    """An entry to dead-letter: the dotted field at fault, its value made safe, and why."""

    field: str
    value: str
    reason: str

    def __str__(self) -> str:
        shown = f" (got {self.value})" if self.value else ""
        return f"{self.field}: {self.reason}{shown}"


def read_event(
    source_id: EntryId, payload: bytes | None, *, payload_max_bytes: int = PAYLOAD_MAX_BYTES
) -> CapsuleEvent | Skip | Bad:
    """Say what follows from one entry of the source stream; never raises, whatever the bytes.

    All known fields are checked before any rule is applied, as the producer's own decoder does,
    so an entry of the wrong shape is `Bad` even if a rule would have skipped it.
    """
    if not (0 <= source_id.ms <= _INT64_MAX and 0 <= source_id.seq <= _INT64_MAX):
        return Bad("id", str(source_id), "does not fit 64 bits with a sign")
    if payload is None:
        return Bad("payload", "", "absent")
    if len(payload) > payload_max_bytes:
        return Bad("payload", excerpt(payload), f"{len(payload)} bytes, over {payload_max_bytes}")
    try:
        if (plain := read_plain(payload)) is not None:
            return _judge(
                source_id,
                name=plain.event,
                outcome=plain.outcome,
                timestamp=plain.timestamp,
                team=plain.team_id,
                error=plain.error_text,
                actor_type=plain.actor.type,
                resource_id=plain.resource.id,
                metadata=plain.metadata,
            )
        # JSON has no other way to write a NUL than an escape.
        return _event(source_id, parse_object(payload), may_hold_nul=b"\\" in payload)
    except MalformedError as malformed:
        return Bad(malformed.field, malformed.value, malformed.reason)


def _event(
    source_id: EntryId, fields: dict[str, object], *, may_hold_nul: bool
) -> CapsuleEvent | Skip:
    name = text_field(fields, "event")
    outcome = text_field(fields, "outcome")
    timestamp = text_field(fields, "timestamp")
    team = text_field(fields, "team_id")
    error = text_field(fields, "error")
    actor = object_field(fields, "actor")
    actor_type = text_field(actor, "type", "actor.")
    text_field(actor, "id", "actor.")
    text_field(actor, "name", "actor.")
    resource = object_field(fields, "resource")
    resource_id = text_field(resource, "id", "resource.")
    text_field(resource, "type", "resource.")
    metadata = text_map_field(fields, "metadata")
    if may_hold_nul:
        _refuse_nul(error, metadata)
    return _judge(
        source_id,
        name=name,
        outcome=outcome,
        timestamp=timestamp,
        team=team,
        error=error,
        actor_type=actor_type,
        resource_id=resource_id,
        metadata=metadata,
    )


def _judge(
    source_id: EntryId,
    *,
    name: str,
    outcome: str,
    timestamp: str,
    team: str,
    error: str,
    actor_type: str,
    resource_id: str,
    metadata: Mapping[str, str],
) -> CapsuleEvent | Skip:
    """Apply the rules to fields that are all of their types."""
    verb = _VERBS.get(name)
    if verb is None:
        return Skip(SkipRule.OTHER_EVENT)
    if actor_type != "system":
        return Skip(SkipRule.OTHER_ACTOR)
    try:
        capsule_key = parse_capsule_key(resource_id)
    except InvalidIdError:
        raise MalformedError("resource.id", resource_id, "not a capsule id") from None
    succeeded = outcome == "success"
    if not succeeded and verb not in _FAILURE_COUNTS:
        return Skip(SkipRule.NO_EFFECT)
    return CapsuleEvent(source_id, verb, succeeded, capsule_key, team, timestamp, metadata, error)


def _refuse_nul(error: str, metadata: Mapping[str, str]) -> None:
    """Postgres stores no NUL: found here it costs one entry, found there a whole batch."""
    if "\0" in error:
        raise MalformedError("error", error, "holds a NUL")
    for key, value in metadata.items():
        if "\0" in value or "\0" in key:
            raise MalformedError(dotted("metadata", key), value, "holds a NUL")


@dataclass(frozen=True, slots=True)
class SandboxEvent:
    """One delivery to a hook sink; `occurred_at` is in UTC, other zones raise ValueError."""

    delivery_id: str
    capsule_id: UUID
    team_id: UUID | None
    type: HookType
    occurred_at: datetime
    metadata: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.occurred_at.utcoffset() != timedelta(0):
            raise ValueError(f"occurred_at is not in UTC: {self.occurred_at.isoformat()}")

    def to_bytes(self) -> bytes:
        """Return it as a JSON object with textual ids, for a topic or for the wire."""
        return orjson.dumps(
            {
                "delivery_id": self.delivery_id,
                "capsule_id": format_capsule_id(self.capsule_id),
                "team_id": None if self.team_id is None else format_team_id(self.team_id),
                "type": self.type,
                "occurred_at": self.occurred_at.isoformat().removesuffix("+00:00") + "Z",
                "metadata": dict(self.metadata),
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> SandboxEvent:
        """Read what `to_bytes` wrote; raises ValueError for anything else."""
        fields = parse_object(raw)
        delivery_id = text_field(fields, "delivery_id")
        if not delivery_id:
            raise MalformedError("delivery_id", delivery_id, "empty")
        type_name = text_field(fields, "type")
        hook_type = _HOOK_TYPE_NAMES.get(type_name)
        if hook_type is None:
            raise MalformedError("type", type_name, "not a type of sandbox event")
        moment = text_field(fields, "occurred_at")
        occurred_at = parse_rfc3339(moment)
        if occurred_at is None:
            raise MalformedError("occurred_at", moment, "not an RFC 3339 time")
        team = text_field(fields, "team_id")
        return cls(
            delivery_id=delivery_id,
            capsule_id=parse_capsule_id(text_field(fields, "capsule_id")),
            team_id=parse_team_id(team) if team else None,
            type=hook_type,
            occurred_at=occurred_at,
            metadata=text_map_field(fields, "metadata"),
        )


def sandbox_event(event: CapsuleEvent, *, now: datetime) -> SandboxEvent:
    """Say to the hook sinks what happened; `now` stands in for a timestamp that does not parse."""
    return SandboxEvent(
        delivery_id=str(event.source_id),
        capsule_id=event.capsule_id,
        team_id=event.team_id,
        type=event.verb.hook_type,
        occurred_at=parse_rfc3339(event.timestamp) or now.astimezone(UTC),
        metadata=event.metadata,
    )
