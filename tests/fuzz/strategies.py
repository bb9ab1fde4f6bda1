"""Payloads under hypothesis' control, so that what is found is also made small."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from streams.events import EntryId
from tests.event_log import textual_id
from tests.fuzz.mutations import ODD_VALUES, Mutator, seeds
from tests.fuzz.properties import SOURCE

__all__ = ["DELIVERIES", "ENTRY_IDS", "PAYLOADS"]

_SEEDS = seeds(200)
_NAMES = ("event", "outcome", "timestamp", "team_id", "error", "actor", "resource", "metadata")

#: Any text that JSON can write, lone surrogates and NUL among them.
_TEXTS = st.one_of(
    *[st.text(max_size=20)] * 4,
    st.text(st.characters(codec=None, exclude_categories=()), max_size=8),
    st.sampled_from(["", "\0", "\ud800", "system", "success", "x" * 3_000, "\u202e\x1b[2J"]),
)
_NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**308, 10**309, 10**400]),
    st.floats(),  # NaN and the infinities among them, which JSON does not have
)
_TREES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), _TEXTS, _NUMBERS),
    lambda values: st.one_of(
        st.lists(values, max_size=3), st.dictionaries(_TEXTS, values, max_size=3)
    ),
    max_leaves=6,
)
_VALUES = st.one_of(st.sampled_from(ODD_VALUES), _TEXTS, _TREES)


def _mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What should be there nineteen times in twenty, else anything."""
    return st.integers(0, 19).flatmap(lambda roll: _VALUES if roll == 19 else strategy)


def _ids(prefix: str) -> st.SearchStrategy[str]:
    """Sound ids, ids at their limits, a digit too few or too many, and one of other alphabets."""
    sound = st.integers(0, 2**128 - 1).map(lambda number: textual_id(prefix, UUID(int=number)))
    digits = st.one_of(
        st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=24, max_size=26),
        st.sampled_from(["f5lxx1zz5pnorynqglhzmsp33", "f5lxx1zz5pnorynqglhzmsp34", "z" * 25]),
    )
    odd = st.builds(str.__add__, st.sampled_from([prefix, prefix.upper(), ""]), digits)
    # What int() takes for digits, and what it takes for none.
    replaced = st.builds(
        lambda text, at, digit: text[: at % len(text)] + digit + text[at % len(text) + 1 :],
        *(sound, st.integers(0, 40), st.sampled_from("٠Ⅻ_+- \nZé\0")),
    )
    return st.one_of(sound, odd, replaced)


_EVENT_NAMES = st.sampled_from(
    ["capsule.create", "capsule.resume", "capsule.pause", "capsule.destroy", "host.up"]
)
_TIMES = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?[+-][0-9]{2}:[0-9]{2}"
    ),
)
_METADATA = st.dictionaries(
    st.one_of(st.sampled_from(["host_ip", "reason", "number"]), _TEXTS), _mostly(_TEXTS), max_size=4
)
_TREES_OF_EVENTS = st.fixed_dictionaries(
    {
        "event": _mostly(_EVENT_NAMES),
        "actor": _mostly(st.fixed_dictionaries({"type": _mostly(st.just("system"))})),
        "resource": _mostly(st.fixed_dictionaries({"id": _mostly(_ids("cl-"))})),
    },
    optional={
        "outcome": _mostly(st.sampled_from(["success", "error"])),
        "timestamp": _mostly(_TIMES),
        "team_id": _mostly(_ids("team-")),
        "metadata": _mostly(_METADATA),
        "error": _mostly(_TEXTS),
        "unknown": _VALUES,
    },
)


def _encoded(tree: object, escaped: bool, blanks: bool) -> bytes:
    text = json.dumps(tree, ensure_ascii=escaped, indent=1 if blanks else None)
    return text.encode("utf-8", "surrogatepass")


_EVENTS = st.builds(_encoded, _TREES_OF_EVENTS, st.booleans(), st.booleans())


@st.composite
def _nested(draw: st.DrawFn) -> bytes:
    """An event with a field that is nested deep: at the parser's limit, below it and beyond."""
    payload = draw(_EVENTS)
    depth = draw(st.one_of(st.integers(1, 1_100), st.sampled_from([1_022, 1_023, 1_024, 50_000])))
    opening, closing = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))
    name = draw(st.sampled_from(["x", *_NAMES])).encode()
    closed = draw(st.booleans())
    nested = opening * depth + b"{}" + (closing * depth if closed else b"")
    return payload[:-1].rstrip() + b',"' + name + b'":' + nested + b"}"


@st.composite
def _mutants(draw: st.DrawFn) -> bytes:
    mutator = Mutator(draw(st.integers(0, 2**32)))
    one, other = draw(st.sampled_from(_SEEDS)), draw(st.sampled_from(_SEEDS))
    for _ in range(draw(st.integers(1, 3))):
        one = mutator.mutant(one, other)
    return one


@st.composite
def _with_a_key_twice(draw: st.DrawFn) -> bytes:
    """An event with one more key: in one it is there already, in another it only looks so."""
    payload = draw(_EVENTS)
    key = draw(st.one_of(st.sampled_from(_NAMES), _TEXTS))
    again = draw(
        st.sampled_from([json.dumps(key), f'"\\u0065{key[1:]}"' if key.isascii() else '""'])
    )
    value = json.dumps(draw(_VALUES))
    return payload[:-1].rstrip() + f",{again}:{value}}}".encode("utf-8", "surrogatepass")


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    payload = bytearray(draw(_EVENTS))
    at = draw(st.integers(0, len(payload)))
    payload[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(payload)


#: What may stand in the field `payload`.
PAYLOADS: st.SearchStrategy[bytes | None] = st.one_of(
    *(_EVENTS, _mutants(), _damaged(), _with_a_key_twice(), _nested(), st.binary(max_size=200)),
    _TREES.map(lambda tree: _encoded(tree, True, False)),
    st.sampled_from([None, b"", b"{}", b"null", b"x" * 262_144, b"x" * 262_145]),
)

_LIMITS = st.sampled_from([0, 2**63 - 1, 2**63, 2**64 - 1])

#: Ids of entries, some of them at the limits of Redis (64 bits) and of Postgres (63).
ENTRY_IDS = st.integers(0, 19).flatmap(
    lambda roll: st.builds(EntryId, _LIMITS, _LIMITS) if roll == 19 else st.just(SOURCE)
)

#: What may stand in a topic of a sink.
DELIVERIES = st.one_of(
    st.builds(
        _encoded,
        st.fixed_dictionaries(
            {
                "delivery_id": _mostly(st.just("1700000000000-3")),
                "capsule_id": _mostly(_ids("cl-")),
                "type": _mostly(st.sampled_from(["created", "paused", "resumed", "destroyed"])),
                "occurred_at": _mostly(_TIMES),
            },
            optional={"team_id": _mostly(_ids("team-")), "metadata": _mostly(_METADATA)},
        ),
        st.booleans(),
        st.booleans(),
    ),
    *(_EVENTS, _damaged(), st.binary(max_size=200)),
)
