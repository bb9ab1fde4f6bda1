"""Where settings are read from: the environment, a TOML file, and the places secrets are in.

Each function adds what is wrong to the mistakes and goes on, so that all are told at once.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from config.mistakes import did_you_mean, shown
from config.sinks import SECRET_PREFIX, check_signing_secret
from config.urls import MASK

ENV_PREFIX: Final = "CAPSULES_"
CONFIG_VARIABLE: Final = "CAPSULES_CONFIG"
DEFAULT_CONFIG_FILE: Final = "capsules.toml"
_UNPREFIXED: Final = frozenset({"redis_url", "database_url", "log_level"})


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


def fetch_secrets(
    sinks: object, environ: Mapping[str, str], cwd: Path, name: str, mistakes: list[str]
) -> dict[int, SecretStr]:
    """Fetch the secrets that are given by reference, by the sink's place in the list."""
    found: dict[int, SecretStr] = {}
    for i, sink in enumerate(sinks if isinstance(sinks, list) else []):
        for key in ("secret_env", "secret_file"):
            reference = sink.get(key) if isinstance(sink, dict) else None
            if not isinstance(reference, str) or not reference:
                continue
            try:
                value = (
                    environ[reference]
                    if key == "secret_env"
                    else (cwd / reference).read_text(encoding="utf-8")
                )
                found[i] = check_signing_secret(SecretStr(value.strip()))
            except KeyError:
                problem = "expected the name of an environment variable that is set"
            except OSError as error:
                problem = f"expected a file that can be read: {error.strerror}"
            except UnicodeDecodeError:
                problem = "expected a text file"
            except ValueError as error:
                problem = f"what it refers to: {error}"
            else:
                continue
            # Someone may have put the secret itself where its place belongs.
            given = MASK if reference.startswith(SECRET_PREFIX) else shown(reference)
            mistakes.append(f"{name}[{i}].{key}={given}: {problem}")
    return found


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
    entries = sinks if isinstance(sinks, list) else []
    named = (entry.get("secret_env") for entry in entries if isinstance(entry, dict))
    return {name for name in named if isinstance(name, str)}
