"""Sharing partitions without a leader: even, in two looks, and moving no more than must move."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streams.transport.sharing import Member, plan

TOKENS = [f"worker-{n}" for n in range(8)]
fleets = st.sets(st.sampled_from(TOKENS), min_size=1).map(sorted)
#: Partitions by topic.
topologies = st.dictionaries(
    st.sampled_from(["source", "capsules", "hooks.a", "hooks.b"]), st.integers(1, 20), min_size=1
)

Topology = dict[str, int]


def names(topics: Topology) -> list[str]:
    return [f"{topic}:{n}" for topic, count in topics.items() for n in range(count)]


def fleet(tokens: list[str], topics: Topology) -> list[Member]:
    return [Member(token, frozenset(names(topics))) for token in tokens]


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


def assert_even(members: list[Member], owners: dict[str, str], topics: Topology) -> None:
    """All partitions are held, and no two workers differ by more than one, however counted."""
    assert sorted(owners) == sorted(names(topics))
    for topic in (None, *topics):
        held = Counter({member.token: 0 for member in members})
        held.update(
            token for name, token in owners.items() if topic in (None, name.rpartition(":")[0])
        )
        assert max(held.values()) - min(held.values()) <= 1, topic


@given(fleets, topologies)
def test_partitions_that_nobody_holds_are_shared_evenly_at_the_first_look(
    tokens: list[str], topics: Topology
) -> None:
    members = fleet(tokens, topics)
    assert_even(members, look(members, {}), topics)


@given(fleets, fleets, topologies)
def test_after_any_change_two_looks_share_evenly_and_the_third_changes_nothing(
    before: list[str], after: list[str], topics: Topology
) -> None:
    owners = settled(fleet(before, topics), {})
    members = fleet(after, topics)
    left = {partition: token for partition, token in owners.items() if token in after}
    owners = settled(members, left)
    assert_even(members, owners, topics)
    assert look(members, owners) == owners


@given(fleets, st.sampled_from(TOKENS), topologies)
def test_a_joiner_takes_its_share_and_nothing_else_moves(
    before: list[str], joiner: str, topics: Topology
) -> None:
    owners = settled(fleet(before, topics), {})
    after = settled(fleet(sorted({*before, joiner}), topics), owners)
    moved = {name for name in owners if after[name] != owners[name]}
    if joiner not in before:
        # Which topics a worker has one more of may change with the number of workers.
        share = sum(after[name] == joiner for name in names(topics))
        assert len(moved) <= share + len(topics)
    else:
        assert moved == set()


@given(fleets, topologies, st.data())
def test_what_a_leaver_did_not_hold_stays_where_it_is_but_for_the_odd_ones(
    before: list[str], topics: Topology, data: st.DataObject
) -> None:
    leaver = data.draw(st.sampled_from(before))
    remaining = [token for token in before if token != leaver]
    if not remaining:
        return
    owners = settled(fleet(before, topics), {})
    left = {name: token for name, token in owners.items() if token != leaver}
    after = settled(fleet(remaining, topics), left)
    assert sum(after[name] != token for name, token in left.items()) <= len(topics)


@given(fleets, topologies, st.data())
def test_nobody_gives_up_and_takes_of_one_topic_at_the_same_look(
    tokens: list[str], topics: Topology, data: st.DataObject
) -> None:
    members = fleet(tokens, topics)
    drawn = st.dictionaries(st.sampled_from(names(topics)), st.sampled_from(tokens))
    owners = data.draw(drawn)
    for token in tokens:
        move = plan(token, members, owners)
        given_up = {name.rpartition(":")[0] for name in move.release}
        assert not given_up & {name.rpartition(":")[0] for name in move.acquire}
        assert all(owners[name] == token for name in move.release)
        assert all(name not in owners for name in move.acquire)


@given(fleets, topologies, st.data())
def test_from_any_state_a_few_looks_end_in_an_even_one(
    tokens: list[str], topics: Topology, data: st.DataObject
) -> None:
    members = fleet(tokens, topics)
    owners = data.draw(st.dictionaries(st.sampled_from(names(topics)), st.sampled_from(tokens)))
    for _ in range(4):
        owners = look(members, owners)
    assert_even(members, owners, topics)


@given(st.integers(1, 40))
def test_a_topic_that_only_one_worker_knows_is_that_workers(partitions: int) -> None:
    common = frozenset(names({"capsules": partitions}))
    members = [
        Member("old-1", common),
        Member("old-2", common),
        Member("new", common | {"hooks.new:0"}),
    ]
    owners = settled(members, {})
    assert owners.pop("hooks.new:0") == "new"
    assert_even(members, owners, {"capsules": partitions})


def test_what_a_stranger_holds_is_left_to_it() -> None:
    members = fleet(["a"], {"t": 2})
    assert plan("a", members, {"t:0": "gone"}).acquire == ("t:1",)
