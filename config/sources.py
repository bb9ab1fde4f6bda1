"""Where settings are read from: the environment, a TOML file, and the places secrets are in.

Each function adds what is wrong to the mistakes and goes on, so that all are told at once.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import SecretStr

from config.mistakes import did_you_mean, shown
from config.sinks import SECRET_PREFIX, check_signing_secret
from config.urls import MASK

ENV_PREFIX: Final = "CAPSULES_"
CONFIG_VARIABLE: Final = "CAPSULES_CONFIG"
DEFAULT_CONFIG_FILE: Final = "capsules.toml"
_UNPREFIXED: Final = frozenset({"redis_url", "database_url", "log_level"})
_SECRET_KEYS: Final = ("secret_env", "secret_file", "next_secret_env", "next_secret_file")


def env_name(field: str) -> str:
    """Return the environment variable of a field of `Settings`."""
    return field.upper() if field in _UNPREFIXED else ENV_PREFIX + field.upper()


def read_file(environ: Mapping[str, str], cwd: Path, mistakes: list[str]) -> dict[str, Any]:
    """Return what is in the file that `CAPSULES_CONFIG` names, or in the default one if any."""
    named = environ.get(CONFIG_VARIABLE)
    path = cwd / (named or DEFAULT_CONFIG_FILE)
    if not named and not path.exists():
        return {}
    origin = f"{CONFIG_VARIABLE}={shown(named)}" if named else DEFAULT_CONFIG_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        mistakes.append(f"{origin}: expected a file that can be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        mistakes.append(f"{origin}: expected TOML: {error}")
    return {}


def decode_sinks(from_env: dict[str, Any], mistakes: list[str]) -> None:
    """Replace the sinks' JSON from the environment by what it says; remove it if it is none."""
    try:
        from_env["sinks"] = json.loads(from_env["sinks"])
    except ValueError as error:
        # The value is not shown: it may have secrets in it.
        mistakes.append(f"{env_name('sinks')}: expected a list in JSON: {error}")
        del from_env["sinks"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A key that says where a value is, such as `secret_env` for `secret`."""

    target: str
    kind: Literal["env", "file"]

    @classmethod
    def of(cls, key: str) -> Reference | None:
        """Return what a key refers to; None if it has a value of its own."""
        target, _, kind = key.rpartition("_")
        if target and kind == "env":
            return cls(target, "env")
        return cls(target, "file") if target and kind == "file" else None


@dataclass(frozen=True, slots=True)
class SecretPlaces:
    """Where values are that do not stand in the settings: variables, and files from `cwd`."""

    environ: Mapping[str, str]
    cwd: Path

    def fetch(self, reference: Reference, place: object) -> str:
        """Return the value without blanks around it; ValueError, without it, if it is not there."""
        if not isinstance(place, str) or not place:
            raise ValueError("expected a name")
        try:
            if reference.kind == "env":
                return self.environ[place].strip()
            return (self.cwd / place).read_text(encoding="utf-8").strip()
        except KeyError:
            raise ValueError("expected the name of an environment variable that is set") from None
        except OSError as error:
            raise ValueError(f"expected a file that can be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("expected a text file") from None


def fetch_secrets(
    sinks: object, places: SecretPlaces, name: str, mistakes: list[str]
) -> dict[int, dict[str, SecretStr]]:
    """Fetch webhooks' secrets that are given by reference, by the sink's place in the list."""
    found: dict[int, dict[str, SecretStr]] = {}
    for i, sink in enumerate(sinks if isinstance(sinks, list) else []):
        if not isinstance(sink, dict):
            continue
        for key in _SECRET_KEYS:
            given, reference = sink.get(key), Reference.of(key)
            if not isinstance(given, str) or not given or reference is None:
                continue
            try:
                secret = SecretStr(places.fetch(reference, given))
            except ValueError as error:
                mistakes.append(f"{name}[{i}].{key}={_shown_place(given)}: {error}")
                continue
            try:
                check_signing_secret(secret, sink.get("scheme", "standard"))
            except ValueError as error:
                told = f"what it refers to: {error}"
                mistakes.append(f"{name}[{i}].{key}={_shown_place(given)}: {told}")
                continue
            found.setdefault(i, {})[reference.target] = secret
    return found


def _shown_place(place: str) -> str:
    # Someone may have put the secret itself where its place belongs.
    return MASK if place.startswith(SECRET_PREFIX) else shown(place)


def unknown_names(
    environ: Mapping[str, str], from_file: Mapping[str, Any], sinks: object, fields: Iterable[str]
) -> list[str]:
    """Return a mistake for each variable of our prefix, and each key, that is no setting."""
    fields = list(fields)
    own = {env_name(field) for field in fields} | {CONFIG_VARIABLE} | _named_variables(sinks)
    # Compared without the prefix: with it, all of ours resemble each other.
    near = {"CONFIG": CONFIG_VARIABLE} | {field.upper(): env_name(field) for field in fields}
    return [
        f"{variable}: no such setting{did_you_mean(variable.removeprefix(ENV_PREFIX), near)}"
        for variable in sorted(set(environ) - own)
        if variable.startswith(ENV_PREFIX)
    ] + [
        f"{key} in the TOML file: no such setting"
        f"{did_you_mean(key, {field: field for field in fields})}"
        for key in sorted(set(from_file) - set(fields))
    ]


def _named_variables(sinks: object) -> set[str]:
    """Return the variables in which sinks keep their secrets; they may begin like ours."""
    named: list[object] = []
    for sink in sinks if isinstance(sinks, list) else []:
        if isinstance(sink, dict):
            options = sink.get("options")
            given = {**options, **sink} if isinstance(options, dict) else sink
            named += [value for key, value in given.items() if str(key).endswith("_env")]
    return {name for name in named if isinstance(name, str)}
