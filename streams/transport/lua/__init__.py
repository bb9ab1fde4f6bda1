"""The transport's Lua scripts; each opens with a map of its keys and arguments."""

from __future__ import annotations

from importlib import resources

__all__ = ["script"]

#: Scripts that use the functions of ``figures.lua``.
_COUNTING = frozenset({"group_make", "position_ack", "position_check"})


def script(name: str) -> str:
    """Return the source of ``<name>.lua``, with the functions that it uses."""
    parts = ("figures", name) if name in _COUNTING else (name,)
    directory = resources.files(__name__)
    return "\n".join(
        directory.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in parts
    )
