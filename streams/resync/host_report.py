"""What the hosts said that they have, as a JSON document, read strictly.

::

    {"as_of": "2026-03-01T12:00:00Z",
     "hosts": ["host-..."],
     "capsules": [{"id": "cl-...", "status": "running", "host_ip": "10.0.0.1"}]}

``as_of`` is when the first host began to be asked. ``capsules`` has every capsule that a host has,
paused ones too. ``hosts`` says that it is complete for these hosts only; without it, for all.
``host_ip`` may be left out. Unknown fields are ignored, absent and null are the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from streams.errors import ReconcilerError
from streams.ids import InvalidIdError, excerpt, parse_capsule_id, parse_host_id
from streams.resync.rules import STATUSES
from streams.strict_json import MalformedError, parse_object, parse_rfc3339, text_field

__all__ = ["REPORT_MAX_BYTES", "HostReport", "ReportError", "ReportedCapsule", "parse_report"]

REPORT_MAX_BYTES: Final = 64 * 1024 * 1024
_CAPSULES_MAX: Final = 500_000
_HOSTS_MAX: Final = 10_000
#: A document that is wrong throughout is not answered with a line for each item.
_MISTAKES_MAX: Final = 100
_IP_CHARS_MAX: Final = 45


class ReportError(ReconcilerError):
    """The document cannot be used; `mistakes` has a line for each thing wrong with it."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


@dataclass(frozen=True, slots=True)
class ReportedCapsule:
    """What a host says of one capsule; `host_ip` is empty where it was not said."""

    status: str
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class HostReport:
    """A report: complete for `hosts`, or for every host where that is None."""

    as_of: datetime
    hosts: frozenset[UUID] | None
    capsules: Mapping[UUID, ReportedCapsule]


def parse_report(document: bytes) -> HostReport:
    """Read a report; raises `ReportError` with all that is wrong with it."""
    if len(document) > REPORT_MAX_BYTES:
        raise ReportError([f"report: larger than {REPORT_MAX_BYTES} bytes"])
    try:
        fields = parse_object(document)
    except MalformedError as exc:
        raise ReportError([f"report: {exc.reason} (got {exc.value})"]) from None
    reading = _Reading()
    as_of = reading.as_of(fields)
    hosts = reading.hosts(fields.get("hosts"))
    capsules = reading.capsules(fields.get("capsules"))
    if not capsules and hosts is None and not reading.count:
        # Taken at its word it would declare the whole fleet missing.
        reading.note("capsules", [], "empty, and no hosts that it would be complete for")
    if reading.count or as_of is None:
        raise ReportError(reading.mistakes())
    return HostReport(as_of, hosts, capsules)


class _Reading:
    """Reads the parts of a report, noting what is wrong with each."""

    def __init__(self) -> None:
        self.count = 0
        self._mistakes: list[str] = []

    def note(self, field: str, value: object, reason: str) -> None:
        self.count += 1
        if self.count <= _MISTAKES_MAX:
            self._mistakes.append(f"{field}: {reason} (got {excerpt(value)})")

    def mistakes(self) -> Iterator[str]:
        yield from self._mistakes
        if self.count > _MISTAKES_MAX:
            yield f"report: {self.count - _MISTAKES_MAX} more mistakes"

    def as_of(self, fields: Mapping[str, object]) -> datetime | None:
        try:
            text = text_field(fields, "as_of")
        except MalformedError as exc:
            self.note(exc.field, fields["as_of"], exc.reason)
            return None
        moment = parse_rfc3339(text)
        if moment is None:
            self.note("as_of", text, "not an RFC 3339 time")
        return moment

    def hosts(self, value: object) -> frozenset[UUID] | None:
        if value is None:
            return None
        found: dict[UUID, int] = {}
        for number, item in enumerate(self._items("hosts", value, _HOSTS_MAX)):
            field = f"hosts[{number}]"
            try:
                host_id = parse_host_id(item)  # type: ignore[arg-type] # it refuses other types
            except InvalidIdError:
                self.note(field, item, "not a host- id")
                continue
            if host_id in found:
                self.note(field, item, f"the same as hosts[{found[host_id]}]")
            found.setdefault(host_id, number)
        if value == []:
            self.note("hosts", value, "empty: leave it out where the list is complete for all")
        return frozenset(found)

    def capsules(self, value: object) -> dict[UUID, ReportedCapsule]:
        found: dict[UUID, ReportedCapsule] = {}
        first_at: dict[UUID, int] = {}
        if value is None:
            self.note("capsules", value, "missing")
            return found
        for number, item in enumerate(self._items("capsules", value, _CAPSULES_MAX)):
            where = f"capsules[{number}]"
            if not isinstance(item, dict):
                self.note(where, item, "not an object")
                continue
            capsule_id = self._capsule_id(item, where)
            capsule = self._capsule(item, where)
            if capsule_id is None:
                continue
            if capsule_id in first_at:
                reason = f"the same as capsules[{first_at[capsule_id]}].id"
                self.note(f"{where}.id", item["id"], reason)
            first_at.setdefault(capsule_id, number)
            if capsule is not None:
                found[capsule_id] = capsule
        return found

    def _items(self, field: str, value: object, most: int) -> list[object]:
        if not isinstance(value, list):
            self.note(field, value, "not an array")
        elif len(value) > most:
            self.note(field, value, f"more than {most} items")
        else:
            return value
        return []

    def _capsule_id(self, item: Mapping[str, object], where: str) -> UUID | None:
        value = item.get("id")
        try:
            return parse_capsule_id(value)  # type: ignore[arg-type] # it refuses other types
        except InvalidIdError:
            self.note(f"{where}.id", value, "not a cl- id")
            return None

    def _capsule(self, item: Mapping[str, object], where: str) -> ReportedCapsule | None:
        status, host_ip = item.get("status"), item.get("host_ip")
        mistakes = self.count
        if not isinstance(status, str) or status not in STATUSES:
            self.note(f"{where}.status", status, "not a status")
        if host_ip is not None and host_ip != "" and not _is_address(host_ip):
            self.note(f"{where}.host_ip", host_ip, "not an IP address")
        if self.count > mistakes:
            return None
        return ReportedCapsule(str(status), str(host_ip or ""))


def _is_address(value: object) -> bool:
    # A zone behind a % may be any text, and means something on its own machine only.
    if not isinstance(value, str) or len(value) > _IP_CHARS_MAX or "%" in value:
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
