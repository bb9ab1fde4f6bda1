"""The five ends that an entry can come to at a stage, and the words for why.

=========== ===================================================================================
outcome     means
=========== ===================================================================================
``done``    its effects are durable
``skip``    by a rule it has none (:class:`streams.events.SkipRule`)
``retry``   not now; it stays pending and is tried again after a while
``dead``    it cannot have its effects; it is kept whole as a dead letter (:class:`Reason`)
``lost``    Redis no longer has it: its ids are in the table ``gaps``
=========== ===================================================================================

Each published entry ends as exactly one of done, skip, dead and lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from streams.events import Bad

__all__ = ["Dead", "Outcome", "Reason"]


class Outcome(StrEnum):
    """What became of an entry at a stage."""

    DONE = "done"
    SKIP = "skip"
    RETRY = "retry"
    DEAD = "dead"
    LOST = "lost"


class Reason(StrEnum):
    """Why an entry is dead."""

    #: Its bytes are not what the contract says.
    BAD_ENTRY = "bad_entry"
    #: It needs an audit row, which needs a team, and neither the event nor a row has one.
    NO_TEAM = "no_team"
    #: Postgres refuses the values themselves.
    REFUSED_BY_POSTGRES = "refused_by_postgres"
    #: The sink says that it will never take this delivery.
    REFUSED_BY_SINK = "refused_by_sink"
    #: The sink did not take it in all the time there was for it.
    GAVE_UP = "gave_up"
    #: The sink was retired before it was delivered.
    SINK_RETIRED = "sink_retired"
    #: As many deliveries waited for the sink as may, and this was one of the oldest.
    BACKLOG_FULL = "backlog_full"


@dataclass(frozen=True, slots=True)
class Dead:
    """An entry that cannot have its effects, and why.

    `attempts` counts over all workers, and `first_at_s` is when the first was made, in seconds
    since the epoch (None: now).
    """

    reason: Reason
    error: str
    attempts: int = 1
    first_at_s: float | None = None

    @classmethod
    def of_bad(cls, bad: Bad) -> Dead:
        """What `read_event` says of an entry that it cannot read."""
        return cls(Reason.BAD_ENTRY, str(bad))
