"""The errors this project raises on purpose.

::

    ReconcilerError
    ├── StartError               the worker cannot start as it is set up; a person must act
    ├── BrokenError              this worker cannot go on; another one, or itself anew, can
    ├── DeliveryError            one attempt at one hook delivery failed; try again
    │   └── DeliveryRefusedError it was refused for good; do not
    └── DatabaseError
        ├── DatabaseUnavailableError   no answer, or "not now": the same statement, again
        └── DatabaseRejectedError      the data cannot be stored: this statement never succeeds

The transport has a tree of its own (:mod:`streams.transport.errors`). What is in neither is a
fault of the program or comes from a library.
"""

from __future__ import annotations


class ReconcilerError(Exception):
    """Root of the tree: catches whatever this project itself decided to raise."""


class StartError(ReconcilerError):
    """The worker cannot start as it is set up; the text is one line for each mistake."""


class BrokenError(ReconcilerError):
    """This worker cannot go on, and must be started anew."""


class DeliveryError(ReconcilerError):
    """One attempt at a hook delivery failed and should be made again.

    Args:
        reason: Short text for logs and dead letters. Whoever raises this keeps secrets and
            customers' values out of it: operators will read it.
        retry_after_s: How long the receiver asked to be left alone, as it said it: finite and
            not negative, but not capped. None where it did not say.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class DeliveryRefusedError(DeliveryError):
    """A hook delivery was refused for good: the same one will be refused again."""


class DatabaseError(ReconcilerError):
    """Postgres did not do what a statement asked."""


class DatabaseUnavailableError(DatabaseError):
    """Postgres did not answer, or not now: the statement may or may not have taken effect."""


class DatabaseRejectedError(DatabaseError):
    """Postgres refuses the data itself, so the same statement will never succeed."""
