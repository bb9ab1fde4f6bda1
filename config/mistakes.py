"""Mistakes in the configuration, each in one line an operator can act on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pydantic_core import ErrorDetails

from config.urls import SECRET_NAME, mask_url

_SHOWN_CHARACTERS: Final = 60
# The message pydantic has for a value that fits its own sentence, not ours.
_PYDANTIC_PREFIXES: Final = (
    ("Value error, ", ""),
    ("Input should ", "expected to "),
    ("String should ", "expected to "),
)


class SettingsError(Exception):
    """The configuration cannot be used; `str()` has one line per mistake, all of them at once."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes: tuple[str, ...] = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


def shown(value: object) -> str:
    """Return `value` for a message: quoted, control characters escaped, cut, passwords masked."""
    # Cut after masking: a URL cut before its "@" would show its password.
    text = mask_url(value) if isinstance(value, str) else str(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}..."
    return ascii(text)


def did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """Return `; did you mean X?`, X being what `known` has for the nearest name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {known[near[0]]}?" if near else ""


def describe(
    error: ErrorDetails,
    name_of: Callable[[str], str],
    known_at: Callable[[tuple[int | str, ...]], Iterable[str]],
) -> str:
    """Return one line for one pydantic error.

    `name_of` tells what the operator calls a top-level field; `known_at` the names allowed where
    an unknown one was found.
    """
    location = list(error["loc"])
    field = str(location[0]) if location else ""
    # pydantic puts the sink's type after its index, which the operator did not write.
    inner = [part for i, part in enumerate(location[1:], 1) if not (i == 2 and field == "sinks")]
    name = name_of(field) + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner
    )
    if error["type"] == "extra_forbidden":
        known = {allowed: allowed for allowed in known_at(error["loc"])}
        return f"{name}: no such setting{did_you_mean(str(location[-1]), known)}"
    message = error["msg"]
    for prefix, replacement in _PYDANTIC_PREFIXES:
        if message.startswith(prefix):
            message = replacement + message.removeprefix(prefix)
    if error["type"] == "missing":
        message = "expected, but not given"
    whole_sink = field == "sinks" and len(inner) < 2
    if whole_sink or _is_secret(location) or not isinstance(error["input"], str | int | float):
        # A whole sink may have a secret in it, and nothing at all has nothing to show.
        return f"{name}: {message}"
    return f"{name}={shown(error['input'])}: {message}"


def _is_secret(location: list[int | str]) -> bool:
    last = str(location[-1]) if location else ""
    # secret_env and secret_file say where the secret is; they are not secret.
    return bool(SECRET_NAME.search(last)) and not last.endswith(("_env", "_file"))
