"""JSON objects from outside, read strictly: what is not exactly right is refused by name.

Absent and null mean the same everywhere, as they do to the producer's decoder. Numbers that stand
for texts, two equal keys in one object and half a timestamp have no meaning and are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from streams.ids import excerpt

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
# One string of a JSON text, with its colon if it is a key; or a bracket that opens or closes a
# scope of keys. Possessive, so a long string is never gone through twice.
_KEY_OR_SCOPE = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")([ \t\r\n]*+:)?|[{}]', re.DOTALL)


class MalformedError(ValueError):
    """A document or one of its fields is not what it has to be.

    Args:
        field: Dotted path of the field, or the name of the whole.
        value: What was there instead; only an excerpt of it is kept.
        reason: What is wrong, in a few words.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field = field
        self.value = excerpt(value)
        self.reason = reason
        super().__init__(f"{field}: {reason} (got {self.value})")


def parse_object(payload: bytes) -> dict[str, object]:
    """Read a whole document that is one JSON object; raises `MalformedError`.

    Nesting beyond orjson's 1024, NaN, numbers beyond a double, text that is not UTF-8, lone
    surrogates and equal keys in one object, at any depth, are refused.
    """
    try:
        tree = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise MalformedError("payload", payload, f"not JSON: {error}") from None
    if type(tree) is not dict:
        raise MalformedError("payload", tree, "not an object")
    # The parser keeps the last of two equal keys in silence. Each key in the text ends in a quote
    # and a colon, so if the upper two levels alone keep as many keys as there are such pairs, none
    # was dropped. Strings that hold `":` and deeper levels only ever part the two numbers further.
    nested = [value for value in tree.values() if type(value) is dict]
    keys_kept = len(tree) + sum(map(len, nested))
    if payload.translate(None, b" \t\r\n").count(b'":') != keys_kept:
        _refuse_duplicate_keys(payload)
    return tree


def _refuse_duplicate_keys(payload: bytes) -> None:
    """Find an object with two equal keys; the payload is known to be JSON."""
    scopes: list[set[str]] = []
    for match in _KEY_OR_SCOPE.finditer(payload):
        string, colon = match.groups()
        if colon is not None:
            key = orjson.loads(string)
            if key in scopes[-1]:
                raise MalformedError("payload", key, "a key occurs twice in one object")
            scopes[-1].add(key)
        elif string is None and match[0] == b"{":
            scopes.append(set())
        elif string is None:
            scopes.pop()


def text_field(fields: Mapping[str, object], name: str, path: str = "") -> str:
    """Return a field's text, empty if absent; `path` goes before its name in an error."""
    value = fields.get(name)
    if type(value) is str:
        return value
    if value is None:
        return ""
    raise MalformedError(path + name, value, "not a text")


def object_field(fields: Mapping[str, object], name: str) -> dict[str, object]:
    """Return a field's object, empty if absent; raises `MalformedError`."""
    value = fields.get(name)
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise MalformedError(name, value, "not an object")


def text_map_field(fields: Mapping[str, object], name: str) -> dict[str, str]:
    """Return a field's map of texts; a null in it is an empty text, anything else is refused."""
    texts: dict[str, str] = {}
    for key, value in object_field(fields, name).items():
        if type(value) is str:
            texts[key] = value
        elif value is None:
            texts[key] = ""
        else:
            raise MalformedError(dotted(name, key), value, "not a text")
    return texts


def dotted(name: str, key: str) -> str:
    """Return ``name.key`` for an error; a key that is long or does not print is escaped."""
    shown = excerpt(key)[1:-1]
    return f"{name}.{shown}"


def parse_rfc3339(text: str) -> datetime | None:
    """Return the moment in UTC, cut to microseconds; None if it is not RFC 3339."""
    # fromisoformat() also takes week dates, bare dates, blanks for the T and times of no zone.
    if not _RFC3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # no such day or hour; or not in years 1-9999 in UTC
        return None
