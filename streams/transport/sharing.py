"""Sharing partitions between workers: what to give up and what to take, as pure logic.

There is no leader. Each worker looks at the same table, who is there and who holds what, and
works out its own part by the same rule:

* The partitions of each topic are shared evenly among the workers that read it, and so are all
  partitions together: no two workers differ by more than one, in either count.
* Who has more of a topic gives up the difference, no more; the others keep what they have. Who
  has less takes what is free. A partition is free once its holder has given it up.

So a worker that joins or leaves moves only what must move, and two looks at the table are
enough: one to give up, one to take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["Member", "Move", "plan"]


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as the others see it."""

    token: str
    #: The partitions it would read, each as ``<topic>:<number>``.
    readable: frozenset[str]


@dataclass(frozen=True, slots=True)
class Move:
    """What one worker has to do."""

    release: tuple[str, ...] = ()
    acquire: tuple[str, ...] = ()


def plan(me: str, members: Collection[Member], owners: Mapping[str, str]) -> Move:
    """Work out the part of worker `me`.

    Arguments:
        me: token of this worker, which is one of `members`.
        members: all live workers.
        owners: token of the holder, by partition; partitions nobody holds may be missing.
    """
    release: list[str] = []
    acquire: list[str] = []
    load: Counter[str] = Counter()
    for topic, readers in _readers(members):
        held, free = _holdings(topic, readers, owners)
        quota = _quotas(len(topic), held, load)
        load.update(quota)
        if me in quota:
            given_up, taken = _part(me, quota, held, free)
            release += given_up
            acquire += taken
    return Move(tuple(release), tuple(acquire))


def _readers(members: Collection[Member]) -> list[tuple[list[str], list[str]]]:
    """Each topic's partitions, with who reads them; the same for all but while deploying."""
    readers: dict[str, set[str]] = {}
    for member in members:
        for partition in member.readable:
            readers.setdefault(partition, set()).add(member.token)
    topics: dict[tuple[str, ...], list[str]] = {}
    for partition, tokens in readers.items():
        topic = partition.rpartition(":")[0]
        topics.setdefault((topic, *sorted(tokens)), []).append(partition)
    # The smallest first: a single partition stays where it is, and the others make up for it.
    by_size = sorted(topics.items(), key=lambda item: (len(item[1]), item[0]))
    return [(sorted(partitions), list(tokens)) for (_, *tokens), partitions in by_size]


def _holdings(
    partitions: list[str], readers: list[str], owners: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """What each reader holds of `partitions`, and what nobody holds."""
    held: dict[str, list[str]] = {token: [] for token in readers}
    free: list[str] = []
    for partition in partitions:
        holder = owners.get(partition)
        if holder in held:
            held[holder].append(partition)
        elif holder is None:
            free.append(partition)
    return held, free


def _quotas(partitions: int, held: Mapping[str, list[str]], load: Counter[str]) -> dict[str, int]:
    """How many each reader is to hold, with what it is to hold of other topics in mind."""
    floor, extra = divmod(partitions, len(held))
    # One more goes to those with the least so far and, among those, to who has the most already.
    order = sorted(held, key=lambda token: (load[token], -len(held[token]), token))
    return {token: floor + (rank < extra) for rank, token in enumerate(order)}


def _part(
    me: str, quota: Mapping[str, int], held: Mapping[str, list[str]], free: list[str]
) -> tuple[list[str], list[str]]:
    surplus = len(held[me]) - quota[me]
    if surplus > 0:
        return held[me][-surplus:], []
    # Each takes its own piece of what is free; where two differ about it, Redis decides.
    start = sum(max(quota[token] - len(held[token]), 0) for token in sorted(held) if token < me)
    return [], free[start : start - surplus]
