"""Wrenn's textual ids: a prefix and 25 digits of base 36.

The digits are the UUID read as a big-endian number, padded on the left with ``0``. Each UUID has
exactly one textual form, so ids may be compared as text as well as as UUIDs.
"""

from __future__ import annotations

import re
from uuid import UUID

_CAPSULE = "cl-"
_TEAM = "team-"
_HOST = "host-"

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_WIDTH = 25
_LARGEST = 2**128 - 1
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
# int(text, 36) alone would also take capitals, underscores, signs, blanks and foreign digits.
_DIGITS = re.compile(f"[0-9a-z]{{{_WIDTH}}}")

_EXCERPT_CHARS = 80


class InvalidIdError(ValueError):
    """A text that is not the id of the kind asked for."""

    def __init__(self, prefix: str, text: object) -> None:
        super().__init__(f"expected {prefix!r} and {_WIDTH} base-36 digits, got {excerpt(text)}")


def parse_capsule_id(text: str) -> UUID:
    """Return the UUID behind a ``cl-`` id; raises `InvalidIdError`."""
    return _parse(_CAPSULE, text)


def parse_capsule_key(text: str) -> bytes:
    """Return its 16 bytes, which are quicker to make and to look up; raises `InvalidIdError`."""
    return _number(_CAPSULE, text).to_bytes(16, "big")


def parse_team_id(text: str) -> UUID:
    """Return the UUID behind a ``team-`` id; raises `InvalidIdError`."""
    return _parse(_TEAM, text)


def parse_host_id(text: str) -> UUID:
    """Return the UUID behind a ``host-`` id; raises `InvalidIdError`."""
    return _parse(_HOST, text)


def format_capsule_id(uuid: UUID) -> str:
    """Return the ``cl-`` id of a capsule."""
    return _CAPSULE + _base36(uuid.int)


def format_team_id(uuid: UUID) -> str:
    """Return the ``team-`` id of a team."""
    return _TEAM + _base36(uuid.int)


def format_host_id(uuid: UUID) -> str:
    """Return the ``host-`` id of a host."""
    return _HOST + _base36(uuid.int)


def excerpt(value: object) -> str:
    """Return one short line that shows a value nobody vouches for, safe in a log or a terminal.

    At most 80 characters; whatever does not print is escaped. An object or an array is named, not
    shown: it may be nested too deep for repr().
    """
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list):
        return f"an array of {len(value)} items"
    if isinstance(value, (str, bytes)):
        cut = len(value) > _EXCERPT_CHARS
        # Cut before repr(), so that a huge value costs no huge copy.
        shown = repr(value[:_EXCERPT_CHARS])
    else:
        cut = False
        shown = repr(value)
    if cut or len(shown) > _EXCERPT_CHARS:
        return shown[: _EXCERPT_CHARS - 1] + "…"
    return shown


def _parse(prefix: str, text: object) -> UUID:
    return UUID(int=_number(prefix, text))


def _number(prefix: str, text: object) -> int:
    if isinstance(text, str) and text.startswith(prefix):
        digits = text[len(prefix) :]
        if _DIGITS.fullmatch(digits):
            number = int(digits, 36)
            if number <= _LARGEST:
                return number
    raise InvalidIdError(prefix, text)


def _base36(number: int) -> str:
    pairs = []
    for _ in range(_WIDTH // 2 + 1):
        number, pair = divmod(number, len(_PAIRS))
        pairs.append(_PAIRS[pair])
    return "".join(reversed(pairs))[1:]  # one digit more than an id has
