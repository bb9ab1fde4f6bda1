"""Text of strangers, made fit for a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(value: str | bytes) -> str:
    """Return `value` in one line, with whatever does not print escaped, as in a Python literal.

    What does not print are control characters, also those of terminals, line ends, marks that turn
    the direction of writing, and bytes that are not UTF-8.
    """
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
