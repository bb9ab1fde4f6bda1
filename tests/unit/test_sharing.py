"""Sharing partitions without a leader: even, in a few looks, and moving no more than must move."""

from __future__ import annotations

from collections import Counter

import pytest
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

#: Topics of which a partition of the first counts as some of the second, beside others.
weighted = st.fixed_dictionaries(
    {"source": st.integers(1, 3), "capsules": st.integers(1, 20)},
    optional={"hooks.a": st.integers(1, 20), "letters": st.just(1)},
)
times = st.integers(1, 24)


def names(topics: Topology) -> list[str]:
    return [f"{topic}:{n}" for topic, count in topics.items() for n in range(count)]


def fleet(tokens: list[str], topics: Topology, times: int | None = None) -> list[Member]:
    counts_as = {} if times is None else {"source": ("capsules", times)}
    return [Member(token, frozenset(names(topics)), counts_as) for token in tokens]


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
    for _ in range(3):
        owners = look(members, owners)
    return owners


def assert_even(members: list[Member], owners: dict[str, str], topics: Topology) -> None:
    """All partitions are held, and no two workers differ by more than one, however counted."""
    assert sorted(owners) == sorted(names(topics))
    for topic in (None, *topics):
        assert_close(held_of(topic, members, owners), topic)


def held_of(topic: str | None, members: list[Member], owners: dict[str, str]) -> Counter[str]:
    """How many partitions of `topic`, or of all, each worker has."""
    held = Counter({member.token: 0 for member in members})
    held.update(token for name, token in owners.items() if topic in (None, topic_of(name)))
    return held


def topic_of(name: str) -> str:
    return name.rpartition(":")[0]


def assert_close(counts: Counter[str], what: str | None) -> None:
    assert max(counts.values()) - min(counts.values()) <= 1, what


def assert_weighed(
    members: list[Member], owners: dict[str, str], topics: Topology, times: int
) -> None:
    """Sources and capsules are shared evenly as work, and every other topic by itself."""
    assert sorted(owners) == sorted(names(topics))
    capsules = held_of("capsules", members, owners)
    work = Counter({token: times * n for token, n in held_of("source", members, owners).items()})
    for other in work:
        for token in capsules:
            # Who has more to do than another has none that it could do without.
            more = work[token] + capsules[token] - work[other] - capsules[other]
            assert more <= 1 or not capsules[token], (token, other)
    for topic in topics.keys() - {"capsules"}:
        assert_close(held_of(topic, members, owners), topic)


@given(fleets, topologies)
def test_partitions_that_nobody_holds_are_shared_evenly_at_the_first_look(
    tokens: list[str], topics: Topology
) -> None:
    members = fleet(tokens, topics)
    assert_even(members, look(members, {}), topics)


@given(fleets, fleets, topologies)
def test_after_any_change_three_looks_share_evenly_and_the_fourth_changes_nothing(
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
        given_up = {topic_of(name) for name in move.release}
        assert not given_up & {topic_of(name) for name in move.acquire}
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


@given(fleets, fleets, weighted, times)
def test_whoever_reads_what_counts_as_several_has_so_many_fewer(
    before: list[str], after: list[str], topics: Topology, times: int
) -> None:
    owners = look(fleet(before, topics, times), {})
    assert_weighed(fleet(before, topics, times), owners, topics, times)
    members = fleet(after, topics, times)
    owners = settled(members, {name: token for name, token in owners.items() if token in after})
    assert_weighed(members, owners, topics, times)
    assert look(members, owners) == owners


@given(fleets, weighted, times, st.data())
def test_from_any_state_a_few_looks_end_where_the_work_is_even(
    tokens: list[str], topics: Topology, times: int, data: st.DataObject
) -> None:
    members = fleet(tokens, topics, times)
    owners = data.draw(st.dictionaries(st.sampled_from(names(topics)), st.sampled_from(tokens)))
    for _ in range(4):
        owners = look(members, owners)
    assert_weighed(members, owners, topics, times)


@given(fleets, st.sampled_from(TOKENS), weighted, times)
def test_a_joiner_takes_its_share_of_the_work_and_nothing_else_moves(
    before: list[str], joiner: str, topics: Topology, times: int
) -> None:
    owners = settled(fleet(before, topics, times), {})
    after = settled(fleet(sorted({*before, joiner}), topics, times), owners)
    moved = {name for name in owners if after[name] != owners[name]}
    if joiner in before:
        assert moved == set()
    elif topics["source"] == 1:
        # The source stays where it is.
        share = sum(after[name] == joiner for name in names(topics))
        assert len(moved) <= share + len(topics)
        assert "source:0" not in moved


@given(fleets, st.sets(st.sampled_from(TOKENS)), weighted, times)
def test_while_an_older_worker_is_there_all_share_as_it_does(
    tokens: list[str], older: set[str], topics: Topology, times: int
) -> None:
    owners = settled(fleet(tokens, topics, times), {})
    mixed = fleet(sorted({*tokens, *older}), topics, times)
    mixed = [Member(m.token, m.readable) if m.token in older else m for m in mixed]
    everywhere = fleet([member.token for member in mixed], topics)
    if older:
        for member in mixed:
            assert plan(member.token, mixed, owners) == plan(member.token, everywhere, owners)
    owners = settled(mixed, owners)
    if older:
        assert_even(mixed, owners, topics)
    # And once it is gone, as they would have without it.
    members = fleet(tokens, topics, times)
    owners = settled(members, {name: token for name, token in owners.items() if token in tokens})
    assert_weighed(members, owners, topics, times)


@given(fleets, weighted, times)
def test_who_reads_nothing_yet_changes_nothing_whatever_it_says(
    tokens: list[str], topics: Topology, times: int
) -> None:
    members = fleet(tokens, topics, times)
    owners = settled(members, {})
    for said in ({}, {"source": ("capsules", times + 1)}):
        new = Member("new", frozenset(), said)
        assert look([*members, new], owners) == look([new, *members], owners) == owners


# The app has the source count as a third of the capsules' partitions: five of sixteen.
@pytest.mark.parametrize(("times", "capsules"), [(5, {"a": 6, "b": 10}), (6, {"a": 5, "b": 11})])
def test_of_two_workers_who_routes_has_fewer_capsules_and_as_many_of_a_sink(
    times: int, capsules: dict[str, int]
) -> None:
    topics = {"source": 1, "capsules": 16, "hooks.a": 16}
    members = fleet(["a", "b"], topics, times)
    owners = settled(members, {})
    assert held_of("source", members, owners) == {"a": 1, "b": 0}
    assert held_of("capsules", members, owners) == capsules
    assert held_of("hooks.a", members, owners) == {"a": 8, "b": 8}
