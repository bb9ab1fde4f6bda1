"""A report of the hosts is read strictly, and each mistake is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from streams.ids import format_capsule_id
from streams.resync.host_report import REPORT_MAX_BYTES, ReportedCapsule, ReportError, parse_report

CAPSULE = format_capsule_id(UUID(int=1))
OTHER = format_capsule_id(UUID(int=2))
HOST = "host-" + "0" * 24 + "7"
AS_OF = "2026-03-01T12:00:00Z"


def document(**fields: Any) -> dict[str, Any]:
    return {"as_of": AS_OF, "capsules": [{"id": CAPSULE, "status": "running"}]} | fields


def capsule(**fields: Any) -> dict[str, Any]:
    return document(capsules=[{"id": CAPSULE, "status": "running"} | fields])


def mistakes(fields: object) -> tuple[str, ...]:
    raw = fields if isinstance(fields, bytes) else orjson.dumps(fields)
    with pytest.raises(ReportError) as caught:
        parse_report(raw)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    return caught.value.mistakes


def test_a_report_with_everything() -> None:
    report = parse_report(
        orjson.dumps(
            document(
                as_of="2026-03-01T13:00:00.5+01:00",
                hosts=[HOST],
                capsules=[
                    {"id": CAPSULE, "status": "running", "host_ip": "10.0.0.1", "more": [1]},
                    {"id": OTHER, "status": "missing", "host_ip": None},
                ],
                more={"unknown": "fields"},
            )
        )
    )
    assert report.as_of == datetime(2026, 3, 1, 12, 0, 0, 500_000, UTC)
    assert report.hosts == frozenset({UUID(int=7)})
    assert report.capsules == {
        UUID(int=1): ReportedCapsule("running", "10.0.0.1"),
        UUID(int=2): ReportedCapsule("missing"),
    }


def test_without_hosts_it_is_complete_for_all() -> None:
    assert parse_report(orjson.dumps(document())).hosts is None
    assert parse_report(orjson.dumps(document(hosts=None))).hosts is None


def test_a_host_may_have_nothing_but_not_the_whole_fleet() -> None:
    assert parse_report(orjson.dumps(document(hosts=[HOST], capsules=[]))).capsules == {}
    assert mistakes(document(capsules=[])) == (
        "capsules: empty, and no hosts that it would be complete for (got an array of 0 items)",
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (b"", "report: not JSON"),
        (b"[]", "report: not an object"),
        (b'{"as_of": 1, "as_of": 2, "capsules": []}', "report: a key occurs twice"),
        (
            b'{"as_of": "2026-03-01T12:00:00Z", "capsules": [{"id": "a", "id": "b"}]}',
            "report: a key occurs twice",
        ),
        (b'{"as_of": "\xff"}', "report: not JSON"),
        (document(as_of=None), "as_of: not an RFC 3339 time (got '')"),
        (document(as_of=1_700_000_000), "as_of: not a text (got 1700000000)"),
        (document(as_of="2026-03-01 12:00:00"), "as_of: not an RFC 3339 time"),
        (document(hosts="host-1"), "hosts: not an array (got 'host-1')"),
        (document(hosts=[]), "hosts: empty"),
        (document(hosts=[7]), "hosts[0]: not a host- id (got 7)"),
        (document(hosts=[CAPSULE]), "hosts[0]: not a host- id"),
        (document(hosts=[HOST, HOST]), "hosts[1]: the same as hosts[0]"),
        (document(capsules=None), "capsules: missing (got None)"),
        (document(capsules={}), "capsules: not an array (got an object of 0 fields)"),
        (document(capsules=["x"]), "capsules[0]: not an object (got 'x')"),
        (capsule(id=None), "capsules[0].id: not a cl- id (got None)"),
        (capsule(id=CAPSULE.upper()), "capsules[0].id: not a cl- id"),
        (capsule(id="cl-" + "z" * 25), "capsules[0].id: not a cl- id"),
        (capsule(status=None), "capsules[0].status: not a status (got None)"),
        (capsule(status="Running"), "capsules[0].status: not a status (got 'Running')"),
        (capsule(status=["running"]), "capsules[0].status: not a status (got an array"),
        (capsule(host_ip="10.0.0"), "capsules[0].host_ip: not an IP address (got '10.0.0')"),
        (capsule(host_ip=1), "capsules[0].host_ip: not an IP address (got 1)"),
        (capsule(host_ip=False), "capsules[0].host_ip: not an IP address (got False)"),
        (capsule(host_ip="fe80::1%\x1b[31m"), "capsules[0].host_ip: not an IP address"),
        (
            document(
                capsules=[
                    {"id": CAPSULE, "status": "running"},
                    {"id": CAPSULE, "status": "paused"},
                ]
            ),
            "capsules[1].id: the same as capsules[0].id",
        ),
    ],
)
def test_one_mistake_is_one_line_with_its_field(fields: object, said: str) -> None:
    [line] = mistakes(fields)
    assert line.startswith(said)
    assert line.isprintable()
    assert len(line) < 250


def test_each_mistake_has_its_line() -> None:
    found = mistakes(
        {"as_of": "now", "hosts": ["x"], "capsules": [{"status": "x", "host_ip": "x"}, 3]}
    )
    assert [line.partition(":")[0] for line in found] == [
        "as_of",
        "hosts[0]",
        "capsules[0].id",
        "capsules[0].status",
        "capsules[0].host_ip",
        "capsules[1]",
    ]


def test_a_report_that_is_wrong_throughout_is_answered_in_bounds() -> None:
    found = mistakes(document(capsules=[{}] * 1_000))
    assert len(found) == 101
    assert found[-1] == "report: 1900 more mistakes"


def test_sizes_are_bounded() -> None:
    [line] = mistakes(b" " * (REPORT_MAX_BYTES + 1))
    assert line.startswith("report: larger than")
    [line] = mistakes(document(capsules=[0] * 500_001))
    assert line == "capsules: more than 500000 items (got an array of 500001 items)"


def test_nothing_in_a_line_reaches_a_terminal_raw() -> None:
    hostile = "\x1b]0;owned\x07\n" + "x" * 10_000
    for fields in (
        document(as_of=hostile),
        document(hosts=[hostile]),
        capsule(id=hostile),
        capsule(status=hostile),
        capsule(host_ip=hostile),
    ):
        [line] = mistakes(fields)
        assert line.isprintable()
        assert len(line) < 200
