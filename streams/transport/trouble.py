"""What this worker cannot do at Redis just now, and how often it could not so far."""

from __future__ import annotations

from collections import Counter
from time import monotonic

from .errors import JournalUnavailableError, TransportError

__all__ = ["JOURNAL", "REDIS", "Trouble"]

#: Where an activity of the transport can fail.
REDIS, JOURNAL = "redis", "journal"


class Trouble:
    """The failures of one activity, such as reading."""

    def __init__(self) -> None:
        #: What went wrong last; None: nothing since it went well.
        self.error: TransportError | None = None
        #: Attempts that failed, by where.
        self.failed: Counter[str] = Counter()
        self._since = 0.0

    def fail(self, error: TransportError) -> None:
        """Note that an attempt failed."""
        if self.error is None:
            self._since = monotonic()
        self.error = error
        self.failed[self.at] += 1

    def end(self) -> None:
        """Note that an attempt went well."""
        self.error = None

    @property
    def at(self) -> str:
        """Where the last attempt failed."""
        return JOURNAL if isinstance(self.error, JournalUnavailableError) else REDIS

    @property
    def for_s(self) -> float:
        """Since when no attempt went well; 0 where the last one did."""
        return monotonic() - self._since if self.error is not None else 0.0
