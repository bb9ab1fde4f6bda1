"""Sharing partitions without a leader: even, in two looks, and moving no more than must move."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streams.transport.sharing import Member, plan

TOKENS = [f"worker-{n}" for n in range(8)]
fleets = st.sets(st.sampled_from(TOKENS), min_size=1).map(sorted)
counts = st.integers(1, 40)


def fleet(tokens: list[str], partitions: int) -> list[Member]:
    readable = frozenset(f"p{n:02}" for n in range(partitions))
    return [Member(token, readable) for token in tokens]


def look(members: list[Member], owners: dict[str, str]) -> dict[str, str]:
    """Have all workers look at the same table once, and act on what they saw."""
    after = dict(owners)
    moves = {member.token: plan(member.token, members, owners) for member in members}
    for move in moves.values():
        for partition in move.release:
            del after[partition]
    for token, move in moves.items():
        for partition in move.acquire:
            after.setdefault(partition, token)
    return after


def settled(members: list[Member], owners: dict[str, str]) -> dict[str, str]:
    for _ in range(2):
        owners = look(members, owners)
    return owners


def spread(members: list[Member], owners: dict[str, str]) -> int:
    held = Counter({member.token: 0 for member in members})
    held.update(owners.values())
    return max(held.values()) - min(held.values())


@given(fleets, counts)
def test_partitions_that_nobody_holds_are_shared_evenly_at_the_first_look(
    tokens: list[str], partitions: int
) -> None:
    members = fleet(tokens, partitions)
    owners = look(members, {})
    assert len(owners) == partitions
    assert spread(members, owners) <= 1


@given(fleets, fleets, counts)
def test_after_any_change_two_looks_share_evenly_and_the_third_changes_nothing(
    before: list[str], after: list[str], partitions: int
) -> None:
    owners = settled(fleet(before, partitions), {})
    members = fleet(after, partitions)
    left = {partition: token for partition, token in owners.items() if token in after}
    owners = settled(members, left)
    assert len(owners) == partitions
    assert spread(members, owners) <= 1
    assert look(members, owners) == owners


@given(fleets, fleets, counts)
def test_no_more_moves_than_must(before: list[str], after: list[str], partitions: int) -> None:
    owners = settled(fleet(before, partitions), {})
    members = fleet(after, partitions)
    left = {partition: token for partition, token in owners.items() if token in after}
    final = settled(members, left)
    floor, extra = divmod(partitions, len(after))
    held = sorted(Counter({t: 0 for t in after} | Counter(left.values())).values(), reverse=True)
    quotas = [floor + (rank < extra) for rank in range(len(after))]
    least = sum(max(had - quota, 0) for had, quota in zip(held, quotas, strict=True))
    moved = sum(final[partition] != token for partition, token in left.items())
    assert moved == least


@given(fleets, counts, st.data())
def test_nobody_gives_up_and_takes_at_the_same_look(
    tokens: list[str], partitions: int, data: st.DataObject
) -> None:
    members = fleet(tokens, partitions)
    names = [f"p{n:02}" for n in range(partitions)]
    owners = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(tokens)))
    for token in tokens:
        move = plan(token, members, owners)
        assert not (move.release and move.acquire)
        assert all(owners[partition] == token for partition in move.release)
        assert all(partition not in owners for partition in move.acquire)


@given(counts)
def test_a_topic_that_only_one_worker_knows_is_that_workers(partitions: int) -> None:
    common = frozenset(f"p{n:02}" for n in range(partitions))
    members = [
        Member("old-1", common),
        Member("old-2", common),
        Member("new", common | {"sink"}),
    ]
    owners = settled(members, {})
    assert owners["sink"] == "new"
    del owners["sink"]
    assert spread(members, owners) <= 1


def test_what_a_stranger_holds_is_left_to_it() -> None:
    members = fleet(["a"], 2)
    assert plan("a", members, {"p00": "gone"}).acquire == ("p01",)
