"""Order per capsule, as pure logic: any interleaving against a plain model."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agents.order import KeyedOrder

#: Its key, which one of its key it is, and whether it may go with others.
Item = tuple[str, int, bool]
KEYS = st.sampled_from("abc")


class OrderMachine(RuleBasedStateMachine):
    """Items are admitted and released in any way; the model is a list per key."""

    def __init__(self) -> None:
        super().__init__()
        self.admitted: dict[str, list[Item]] = defaultdict(list)
        self.under_way: list[Item] = []
        self.gone: dict[str, list[Item]] = defaultdict(list)
        self.run_max = 1
        self.order: KeyedOrder[Item]

    @initialize(run_max=st.integers(1, 4))
    def begin(self, run_max: int) -> None:
        self.run_max = run_max
        self.order = KeyedOrder(
            lambda item: item[0], joins=lambda item: item[2], run_max=self.run_max
        )

    def start(self, ready: list[Item]) -> None:
        busy = {key for key, *_ in self.under_way}
        keys = [key for key, *_ in ready]
        for key in set(keys):
            assert key not in busy
            run = [item for item in ready if item[0] == key]
            first = keys.index(key)
            assert ready[first : first + len(run)] == run, "a run is not in one piece"
            assert len(run) <= self.run_max
            assert len(run) == 1 or all(joins for *_, joins in run)
        for item in ready:
            self.under_way.append(item)
            self.gone[item[0]].append(item)

    @rule(drawn=st.lists(st.tuples(KEYS, st.booleans()), max_size=8))
    def admit(self, drawn: list[tuple[str, bool]]) -> None:
        items = []
        for key, joins in drawn:
            items.append((key, len(self.admitted[key]), joins))
            self.admitted[key].append(items[-1])
        self.start(self.order.admit(items))

    @rule(data=st.data())
    def release_some(self, data: st.DataObject) -> None:
        done = (
            data.draw(st.lists(st.sampled_from(self.under_way), unique=True))
            if (self.under_way)
            else []
        )
        self.under_way = [item for item in self.under_way if item not in done]
        ready = self.order.release(done)
        for key in {key for key, *_ in ready}:
            run = [item for item in ready if item[0] == key]
            behind = self.admitted[key][run[-1][1] + 1 :]
            full = len(run) == self.run_max or not run[-1][2]
            assert full or not behind or not behind[0][2], "one more could have gone along"
        self.start(ready)

    @invariant()
    def each_key_goes_in_the_order_it_came(self) -> None:
        for key, gone in self.gone.items():
            assert gone == self.admitted[key][: len(gone)]

    @invariant()
    def no_key_waits_without_a_reason(self) -> None:
        busy = {key for key, *_ in self.under_way}
        for key, admitted in self.admitted.items():
            assert key in busy or len(self.gone[key]) == len(admitted)
        assert self.order.busy == len(busy)
        waiting = sum(
            len(admitted) - len(self.gone[key]) for key, admitted in self.admitted.items()
        )
        assert self.order.held_back == waiting


TestOrder = OrderMachine.TestCase


@given(st.lists(KEYS, min_size=1), st.integers(1, 3))
def test_nothing_is_kept_of_keys_that_are_done(keys: list[str], run_max: int) -> None:
    order: KeyedOrder[str] = KeyedOrder(lambda key: key, joins=lambda _: True, run_max=run_max)
    under_way = order.admit(keys)
    while under_way:
        under_way = order.release(under_way)
    assert order.busy == 0
    assert order.held_back == 0


def test_by_itself_each_item_goes_alone() -> None:
    order: KeyedOrder[str] = KeyedOrder(lambda key: key)
    assert order.admit(["a", "a", "b"]) == ["a", "b"]


def test_releasing_what_was_not_under_way_is_an_error() -> None:
    order: KeyedOrder[str] = KeyedOrder(lambda key: key)
    with pytest.raises(KeyError):
        order.release(["a"])
