"""Sinks that are found by name: installed ones, and classes in somebody's own module.

A package offers a sink by an entry point of the group `capsules.sinks`; `package.module:Class`
needs none. What a sink can be told is its class's attribute `Options`, a pydantic model or a
dataclass; a class without one takes no options. Nothing here knows what a sink does.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from config.mistakes import describe, did_you_mean, shown
from config.sources import Reference, SecretPlaces

__all__ = ["BUILT_IN", "ENTRY_POINTS", "check_options", "find_sink_class", "takes_batches"]

ENTRY_POINTS: Final = "capsules.sinks"
#: Their settings are not in `options`; older than the group.
BUILT_IN: Final = ("log", "webhook")
_DOTTED: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def installed() -> dict[str, EntryPoint]:
    """Return the sinks that installed packages offer, by type."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def find_sink_class(type_name: str) -> type[Any]:
    """Return the class of a sink; ValueError, saying what was expected, if there is none."""
    points = installed()
    if type_name in points:
        return _loaded(points[type_name].value)
    if _DOTTED.fullmatch(type_name):
        return _loaded(type_name)
    there_are = sorted({*BUILT_IN, *points})
    hint = did_you_mean(type_name, {name: name for name in there_are})
    raise ValueError(
        f"expected a type of {', '.join(there_are)}, or package.module:Class,"
        f" not {shown(type_name)}{hint}"
    )


def _loaded(path: str) -> type[Any]:
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # noqa: BLE001 - importing runs somebody else's code
        raise ValueError(
            f"expected {shown(path)} to be importable: {type(error).__name__}: {shown(error)}"
        ) from None
    methods = ("on_sandbox_event", "on_sandbox_events")
    if not isinstance(found, type) or not any(hasattr(found, name) for name in methods):
        raise ValueError(
            f"expected {shown(path)} to be a class with on_sandbox_event or on_sandbox_events"
        )
    return found


def takes_batches(sink_class: type[Any]) -> bool:
    """Whether events are handed to this sink many at once."""
    return not hasattr(sink_class, "on_sandbox_event")


def option_names(sink_class: type[Any]) -> frozenset[str]:
    """Return what the sink's options are called; TypeError if it has none of the known kinds."""
    model = getattr(sink_class, "Options", None)
    if model is None:
        return frozenset()
    if isinstance(model, type) and issubclass(model, BaseModel):
        return frozenset(field.alias or name for name, field in model.model_fields.items())
    if dataclasses.is_dataclass(model):
        return frozenset(field.name for field in dataclasses.fields(model) if field.init)
    raise TypeError("Options is neither a pydantic model nor a dataclass")


def read_options(sink_class: type[Any], options: Mapping[str, Any]) -> object | None:
    """Return the options as the sink's own class; None if it has none.

    Raises:
        pydantic.ValidationError: they do not fit.
    """
    model = getattr(sink_class, "Options", None)
    return None if model is None else TypeAdapter(model).validate_python(dict(options))


def check_options(
    place: str, type_name: str, options: Mapping[str, Any], places: SecretPlaces, told: list[str]
) -> dict[str, Any]:
    """Return the options, fetched from where they are; say in `told` what is wrong with them.

    Arguments:
        place: what the operator calls the sink, such as `sinks[0]`.
        places: where options given by `<option>_env` and `<option>_file` are.
    """
    try:
        sink_class = find_sink_class(type_name)
        names = option_names(sink_class)
    except (ValueError, TypeError) as error:
        told.append(f"{place}: {error}")
        return {}
    place = f"{place}.options"
    values: dict[str, Any] = {}
    fetched: set[str] = set()
    for key, value in options.items():
        reference = Reference.of(key)
        name = reference.target if reference and key not in names else key
        if name not in names:
            known = {known: known for known in names}
            told.append(f"{place}.{key}: no such option{did_you_mean(key, known)}")
        elif name in values:
            told.append(f"{place}.{key}: expected once, but given twice")
        elif name == key or reference is None:
            values[name] = value
        else:
            fetched.add(name)
            try:
                values[name] = places.fetch(reference, value)
            except ValueError as error:
                told.append(f"{place}.{key}={shown(value)}: {error}")
                return {}
    told += _mistakes(place, sink_class, values, fetched)
    return values


def _mistakes(
    place: str, sink_class: type[Any], values: Mapping[str, Any], fetched: set[str]
) -> list[str]:
    try:
        read_options(sink_class, values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        hidden = fetched | _secret_fields(sink_class)
        for detail in details:
            if detail["loc"] and detail["loc"][0] in hidden:
                detail["input"] = None
        return [describe(detail, _under(place), lambda _: ()) for detail in details]
    return []


def _under(place: str) -> Callable[[str], str]:
    return lambda name: f"{place}.{name}" if name else place


def _secret_fields(sink_class: type[Any]) -> set[str]:
    """Return the options whose type says that they are not to be shown."""
    model = sink_class.Options
    if issubclass(model, BaseModel):
        fields = model.model_fields.items()
        types = {field.alias or name: field.annotation for name, field in fields}
    else:
        types = {field.name: field.type for field in dataclasses.fields(model)}
    return {name for name, kind in types.items() if "Secret" in str(kind)}
