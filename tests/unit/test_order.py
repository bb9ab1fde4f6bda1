"""Order per capsule, as pure logic: any interleaving against a plain model."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents.order import KeyedOrder

Item = tuple[str, int]
KEYS = st.sampled_from("abc")


class OrderMachine(RuleBasedStateMachine):
    """Items are admitted and released in any way; the model is a list per key."""

    def __init__(self) -> None:
        super().__init__()
        self.order: KeyedOrder[Item] = KeyedOrder(lambda item: item[0])
        self.admitted: dict[str, list[Item]] = defaultdict(list)
        self.under_way: list[Item] = []
        self.gone: dict[str, list[Item]] = defaultdict(list)
        self.number = 0

    def start(self, ready: list[Item]) -> None:
        for item in ready:
            assert item[0] not in {busy for busy, _ in self.under_way}
            self.under_way.append(item)
            self.gone[item[0]].append(item)

    @rule(keys=st.lists(KEYS, max_size=6))
    def admit(self, keys: list[str]) -> None:
        items = []
        for key in keys:
            self.number += 1
            items.append((key, self.number))
            self.admitted[key].append((key, self.number))
        self.start(self.order.admit(items))

    @rule(data=st.data())
    def release_some(self, data: st.DataObject) -> None:
        done = (
            data.draw(st.lists(st.sampled_from(self.under_way), unique=True))
            if (self.under_way)
            else []
        )
        self.under_way = [item for item in self.under_way if item not in done]
        self.start(self.order.release(done))

    @invariant()
    def each_key_goes_in_the_order_it_came(self) -> None:
        for key, gone in self.gone.items():
            assert gone == self.admitted[key][: len(gone)]

    @invariant()
    def no_key_waits_without_a_reason(self) -> None:
        busy = {key for key, _ in self.under_way}
        for key, admitted in self.admitted.items():
            assert key in busy or len(self.gone[key]) == len(admitted)
        assert self.order.busy == len(busy)
        waiting = sum(
            len(admitted) - len(self.gone[key]) for key, admitted in self.admitted.items()
        )
        assert self.order.held_back == waiting


TestOrder = OrderMachine.TestCase


@given(st.lists(KEYS, min_size=1))
def test_nothing_is_kept_of_keys_that_are_done(keys: list[str]) -> None:
    order: KeyedOrder[str] = KeyedOrder(lambda key: key)
    under_way = order.admit(keys)
    while under_way:
        under_way = order.release(under_way)
    assert order.busy == 0
    assert order.held_back == 0


def test_releasing_what_was_not_under_way_is_an_error() -> None:
    order: KeyedOrder[str] = KeyedOrder(lambda key: key)
    with pytest.raises(KeyError):
        order.release(["a"])
