"""The AsyncAPI document is valid, the committed copy is current, and it says what the code does."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from config.settings import LogSinkSettings, Settings
from streams.app import ReconcilerApp, create_app
from streams.asyncapi import document
from streams.dead_letters.record import LETTER, DeadLetter
from streams.events import Bad, CapsuleEvent, EntryId, SandboxEvent, read_event
from streams.outcomes import Dead, Reason
from streams.topology import Kind, topology_of
from tests.event_log import generate

ROOT = Path(__file__).parents[2]
COPY = ROOT / "docs/asyncapi.json"
SOURCE_ID = EntryId(1_772_366_400_000, 0)


def app() -> ReconcilerApp:
    """One with the settings' defaults and one sink."""
    return create_app(
        Settings(
            redis_url="redis://localhost:6379/0",
            database_url="postgresql://localhost/wrenn",
            sinks=(LogSinkSettings(name="billing"),),
        )
    )


APP = app()
DOCUMENT: dict[str, Any] = document(APP, version=version("capsule-reconciler"))


def validator(schema: str) -> Draft7Validator:
    """The validator of one of the document's schemas."""
    return Draft7Validator({"$ref": f"#/components/schemas/{schema}", **DOCUMENT})


EVENT = validator("event")
DELIVERY = validator("sandboxEvent")
LETTERS = validator("letter")


def test_it_is_valid_by_asyncapis_own_schema() -> None:
    schema = json.loads((ROOT / "tests/asyncapi-3.0.0.schema.json").read_text(encoding="utf-8"))
    check = Draft7Validator(schema)
    assert [error.message for error in check.iter_errors(DOCUMENT)] == []
    broken = DOCUMENT | {"operations": {"a": {"action": "listen", "channel": {"$ref": "#/x"}}}}
    assert not check.is_valid(broken)


def test_the_committed_copy_is_current() -> None:
    now = orjson.dumps(DOCUMENT, option=orjson.OPT_INDENT_2).decode() + "\n"
    made_with = "faust -A streams.app asyncapi, with one sink called billing"
    assert COPY.read_text(encoding="utf-8") == now, f"make it anew: {made_with}"


def test_each_reference_leads_somewhere() -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            below = [found for value in part.values() for found in references(value)]
            return [part["$ref"], *below] if isinstance(part.get("$ref"), str) else below
        return [r for value in part for r in references(value)] if isinstance(part, list) else []

    for reference in references(DOCUMENT):
        part: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]


def test_it_has_each_stream_and_each_agent_that_reads_or_writes_one() -> None:
    picture = topology_of(APP, APP.reconciler.wiring)
    kinds = {node.name: node.kind for node in picture.nodes}
    streams = {name for name, kind in kinds.items() if kind is Kind.STREAM}
    assert len(DOCUMENT["channels"]) == len(streams) == 4
    edges = {
        (edge.source, edge.target)
        for edge in picture.edges
        if Kind.STREAM in (kinds[edge.source], kinds[edge.target])
    }
    assert len(DOCUMENT["operations"]) == len(edges)
    agents = {operation["x-agent"] for operation in DOCUMENT["operations"].values()}
    assert agents == {name for edge in edges for name in edge if kinds[name] is Kind.AGENT}


def test_addresses_are_the_keys_in_redis() -> None:
    keys = set()
    for channel in DOCUMENT["channels"].values():
        parameters = channel.get("parameters", {})
        for number in parameters.get("partition", {}).get("enum", ["0"]):
            tag = parameters.get("tag", {}).get("default", "")
            keys.add(channel["address"].replace("{tag}", tag).replace("{partition}", number))
    layout = APP.redis_layout
    for topic in APP.reconciler.topics.all():
        name = topic.get_topic_name()
        if name not in layout:
            layout.declare(name, topic.partitions or 1, (topic.config or {})["redis"])
    streams = layout.all_streams(topic.get_topic_name() for topic in APP.reconciler.topics.all())
    assert keys == {stream.key.decode() for stream in streams}


@pytest.mark.parametrize("name", ["event", "routedEvent", "delivery"])
def test_examples_are_what_they_are_examples_of(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    schema = message["payload"]["$ref"].rpartition("/")[2]
    for found in message["examples"]:
        assert [error.message for error in validator(schema).iter_errors(found["payload"])] == []
        raw = orjson.dumps(found["payload"])
        if schema == "event":
            assert isinstance(read_event(SOURCE_ID, raw), CapsuleEvent)
        else:
            assert SandboxEvent.from_bytes(raw).to_bytes() == raw


TEXTS = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["system", "success", "a\0"]))
ANYTHING: st.SearchStrategy[object] = st.one_of(
    TEXTS, st.integers(-(2**63), 2**63 - 1), st.just({}), st.just([]), st.booleans()
)
OBJECTS = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {}, optional={"id": ANYTHING, "type": ANYTHING, "name": ANYTHING, "more": ANYTHING}
    ),
    st.just({"type": "system"}),
    st.sampled_from(["cl-" + "0" * 25, "cl-" + "0" * 24, "CL-" + "0" * 25]).map(
        lambda found: {"id": found}
    ),
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "event": st.one_of(ANYTHING, st.sampled_from(["capsule.create", "capsule.pause", "x"])),
        "outcome": ANYTHING,
        "timestamp": ANYTHING,
        "team_id": ANYTHING,
        "actor": OBJECTS,
        "resource": OBJECTS,
        "metadata": st.one_of(ANYTHING, st.dictionaries(st.text(max_size=2), ANYTHING, max_size=2)),
        "error": ANYTHING,
        "unknown": ANYTHING,
    },
)
OURS: dict[str, Any] = {"event": "capsule.create", "actor": {"type": "system"}}


@given(EVENTS)
@example(OURS)
@example(OURS | {"resource": {"id": "cl-" + "0" * 25}})
@example(OURS | {"resource": {"id": "cl-" + "0" * 24}})
@example({"error": "a\0"})
@example({"metadata": {"a\0": "b"}})
@example({"metadata": {"a": None}})
def test_the_schema_of_events_takes_exactly_what_is_read(event: dict[str, Any]) -> None:
    is_read = not isinstance(read_event(SOURCE_ID, orjson.dumps(event)), Bad)
    assert EVENT.is_valid(event) == is_read, event


def test_a_log_of_all_kinds_is_judged_by_the_schema_as_it_is_read() -> None:
    judged = 0
    for _, payload in generate(91, events=3_000, capsules=50).entries:
        try:
            event = json.loads(payload or b"")
        except ValueError:
            continue
        found = read_event(SOURCE_ID, payload)
        # A schema sees neither what is no JSON to a strict parser, such as two equal keys, nor how
        # large the number behind an id is.
        if isinstance(found, Bad) and found.field in ("payload", "resource.id"):
            continue
        if isinstance(found, Bad) and "twice" in found.reason:
            continue
        judged += 1
        assert EVENT.is_valid(event) != isinstance(found, Bad), (event, found)
    assert judged > 1_000


@pytest.mark.parametrize("reason", Reason)
def test_a_letter_is_described_as_it_is_written(reason: Reason) -> None:
    letter = DeadLetter(
        source_id="1-0",
        entry_id="1-0",
        stage="route",
        sink="",
        reason=Dead(reason, "why").reason.value,
        error="why",
        attempts=1,
        first_at_s=1.0,
        at_s=2.0,
        key=b"k",
        fields={b"a": b"\xff"},
    )
    record = letter.record()
    assert record.headers is not None
    about = json.loads(dict(record.headers)[LETTER])
    assert [error.message for error in LETTERS.iter_errors(about)] == []
    assert not LETTERS.is_valid(about | {"reason": "because"})
