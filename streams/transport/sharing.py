"""Sharing partitions between workers: what to give up and what to take, as pure logic.

There is no leader. Each worker looks at the same table, who is there and who holds what, and
works out its own part by the same rule:

* Partitions of topics with the same readers are shared evenly among those readers: with ``n``
  partitions and ``m`` workers each has ``n // m``, and ``n % m`` of them one more.
* Who has more gives up the difference, no more; the others keep all they have. Who has less
  takes what is free. A partition is free once its holder has given it up.

So a worker that joins or leaves moves only what must move, and two looks at the table are
enough: one to give up, one to take.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["Member", "Move", "plan"]


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as the others see it."""

    token: str
    #: The partitions it would read, by name.
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
    for readers, partitions in _groups(members).items():
        if me in readers:
            given_up, taken = _share(me, sorted(readers), sorted(partitions), owners)
            release += given_up
            acquire += taken
    return Move(tuple(release), tuple(acquire))


def _groups(members: Collection[Member]) -> dict[frozenset[str], list[str]]:
    """Partitions by the set of workers that read them: all in one group but while deploying."""
    readers: dict[str, set[str]] = {}
    for member in members:
        for partition in member.readable:
            readers.setdefault(partition, set()).add(member.token)
    groups: dict[frozenset[str], list[str]] = {}
    for partition, tokens in readers.items():
        groups.setdefault(frozenset(tokens), []).append(partition)
    return groups


def _share(
    me: str, readers: list[str], partitions: list[str], owners: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    held: dict[str, list[str]] = {token: [] for token in readers}
    free: list[str] = []
    for partition in partitions:
        holder = owners.get(partition)
        if holder in held:
            held[holder].append(partition)
        elif holder is None:
            free.append(partition)
    floor, extra = divmod(len(partitions), len(readers))
    # One more than the floor goes to those who hold the most already, so that least moves.
    by_count = sorted(readers, key=lambda token: (-len(held[token]), token))
    quota = {token: floor + (rank < extra) for rank, token in enumerate(by_count)}
    mine = held[me]
    surplus = len(mine) - quota[me]
    if surplus > 0:
        return mine[-surplus:], []
    # Each takes its own piece of what is free; where two differ about it, Redis decides.
    start = sum(max(quota[t] - len(held[t]), 0) for t in readers[: readers.index(me)])
    return [], free[start : start - surplus]
