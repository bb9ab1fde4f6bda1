"""Figures in a few characters, for tables that must fit a terminal."""

from __future__ import annotations

__all__ = ["short_age", "short_number"]

_AGES = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"))
_SIZES = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


def short_age(age_s: float | None) -> str:
    """Return an age such as ``0.3 s``, ``42 s``, ``7 m``, ``3 h``, ``12 d``; empty for none."""
    if age_s is None:
        return ""
    for seconds, unit in _AGES:
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:,.0f} {unit}"
    return f"{age_s:.1f} s" if age_s < 10 else f"{age_s:.0f} s"


def short_number(value: float | None) -> str:
    """Return a number in at most six characters, such as ``0.3``, ``9,999``, ``123k``."""
    if value is None:
        return ""
    for size, unit in _SIZES:
        if value >= size:
            scale = size if unit != "k" else 1e3
            return f"{value / scale:,.0f}{unit}" if value < 1e12 else f"{value:.0e}"
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}"
