"""Who is to blame for what does not go as it should, by what all workers of the fleet say.

What a worker knows of itself and of the servers is in its figures
(:mod:`streams.operations.health`); of one that says nothing any more, that is what there is to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Blame", "blames"]

#: Workers tell how they are once a second.
_SILENT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Blame:
    """A culprit, and which worker names it."""

    #: As in :class:`streams.operations.health.Reason`.
    culprit: str
    #: For people.
    text: str
    worker: str


def blames(
    workers: Iterable[Mapping[str, Any]], owners: Mapping[str, str], *, at_s: float
) -> Iterator[Blame]:
    """Say all that `workers` say, and who of them, or of the `owners` of partitions, is silent."""
    told = set()
    for said in workers:
        name = str(said["worker"])
        told.add(name)
        for reason in said.get("reasons", ()):
            yield Blame(str(reason["culprit"]), str(reason["text"]), name)
        if (silent_s := at_s - said["at_s"]) >= _SILENT_S:
            yield Blame("worker", f"it has said nothing for {silent_s:.0f} s", name)
    for name, partitions in sorted(Counter(owners.values()).items()):
        if name not in told:
            yield Blame("worker", f"it holds {partitions} partitions and says nothing", name)
