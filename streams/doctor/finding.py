"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Verdict", "fail", "ok", "warn"]


class Verdict(StrEnum):
    """How it is, worst last."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check."""

    verdict: Verdict
    #: What was seen.
    seen: str
    #: What to do; empty where nothing is to be done.
    advice: str = ""


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, seen)


def warn(seen: str, advice: str) -> Finding:
    """It works, and may not always."""
    return Finding(Verdict.WARN, seen, advice)


def fail(seen: str, advice: str) -> Finding:
    """A guarantee does not hold, or nothing works at all."""
    return Finding(Verdict.FAIL, seen, advice)
