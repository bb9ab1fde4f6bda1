"""Sharing partitions between workers: what to give up and what to take, as pure logic.

There is no leader. Each worker looks at the same table, who is there and who holds what, and
works out its own part by the same rule:

* The partitions of each topic are shared evenly among the workers that read it, and so are all
  partitions together: no two workers differ by more than one, in either count.
* A partition of one topic may count as several of another: whoever reads it is given so many
  fewer of that, or none. That holds where all who read either topic say so. While an older worker
  is among them that does not know of it, all go by what it knows.
* Who has more of a topic gives up the difference, no more; the others keep what they have. Who
  has less takes what is free. A partition is free once its holder has given it up.

So a worker that joins or leaves moves only what must move, and two looks at the table are
enough: one to give up, one to take. Where that has changed who is to have one more than others,
it takes a third.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heapreplace

__all__ = ["Member", "Move", "plan"]


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as the others see it."""

    token: str
    #: The partitions it would read, each as ``<topic>:<number>``.
    readable: frozenset[str]
    #: By topic: the topic of which a partition of it counts as so many.
    counts_as: Mapping[str, tuple[str, int]] = field(default_factory=dict)


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
    #: What workers have to do of a topic because they read another one, by topic.
    burdens: defaultdict[str, Counter[str]] = defaultdict(Counter)
    agreed = _agreed(members)
    for topic, partitions, readers in _readers(members, first=agreed):
        held, free = _holdings(partitions, readers, owners)
        quota = _quotas(len(partitions), held, load, burdens[topic])
        other, times = agreed.get(topic, ("", 1))
        work = Counter({token: count * times for token, count in quota.items()})
        load.update(work)
        burdens[other].update(work)
        if me in quota:
            given_up, taken = _part(me, quota, held, free)
            release += given_up
            acquire += taken
    return Move(tuple(release), tuple(acquire))


def _topic(partition: str) -> str:
    return partition.rpartition(":")[0]


def _agreed(members: Collection[Member]) -> dict[str, tuple[str, int]]:
    """What counts as what, where all who read either of the two say the same."""
    if not any(member.counts_as for member in members):
        return {}
    read = {member.token: set(map(_topic, member.readable)) for member in members}
    said = {
        topic: other
        for member in members
        for topic, other in member.counts_as.items()
        if topic in read[member.token] and topic != other[0]
    }
    return {
        topic: other
        for topic, other in said.items()
        if all(
            member.counts_as.get(topic) == other
            for member in members
            if not read[member.token].isdisjoint({topic, other[0]})
        )
    }


def _readers(
    members: Collection[Member], *, first: Container[str]
) -> list[tuple[str, list[str], list[str]]]:
    """Each topic's partitions, with who reads them; the same for all but while deploying."""
    readers: dict[str, set[str]] = {}
    for member in members:
        for partition in member.readable:
            readers.setdefault(partition, set()).add(member.token)
    topics: dict[tuple[str, ...], list[str]] = {}
    for partition, tokens in readers.items():
        topics.setdefault((_topic(partition), *sorted(tokens)), []).append(partition)
    # What counts as others comes before those. Then the smallest: a single partition stays where
    # it is, and the others make up for it.
    in_order = sorted(
        topics.items(), key=lambda item: (item[0][0] not in first, len(item[1]), item[0])
    )
    return [(topic, sorted(partitions), tokens) for (topic, *tokens), partitions in in_order]


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


def _quotas(
    partitions: int, held: Mapping[str, list[str]], load: Counter[str], burden: Counter[str]
) -> dict[str, int]:
    """How many each reader is to hold, with what it is to hold of other topics in mind."""
    # Each goes to who has the least of this topic. Among those, to those with the least of others
    # and, among those, to who holds the most already.
    order = sorted(
        held,
        key=lambda token: (load[token] - burden[token], -len(held[token]) - burden[token], token),
    )
    quota = dict.fromkeys(order, 0)
    least = [(burden[token], rank) for rank, token in enumerate(order)]
    heapify(least)
    for _ in range(partitions):
        count, rank = least[0]
        quota[order[rank]] += 1
        heapreplace(least, (count + 1, rank))
    return quota


def _part(
    me: str, quota: Mapping[str, int], held: Mapping[str, list[str]], free: list[str]
) -> tuple[list[str], list[str]]:
    surplus = len(held[me]) - quota[me]
    if surplus > 0:
        return held[me][-surplus:], []
    # Each takes its own piece of what is free; where two differ about it, Redis decides.
    start = sum(max(quota[token] - len(held[token]), 0) for token in sorted(held) if token < me)
    return [], free[start : start - surplus]
