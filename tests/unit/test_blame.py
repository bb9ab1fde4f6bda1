"""Whoever looks at one worker reads what all have to say, and who says nothing any more."""

from __future__ import annotations

from typing import Any

from streams.figures.blame import Blame, blames


def said(worker: str, at_s: float, *reasons: tuple[str, str]) -> dict[str, Any]:
    return {
        "worker": worker,
        "at_s": at_s,
        "reasons": [{"culprit": culprit, "text": text} for culprit, text in reasons],
    }


def test_what_each_worker_says_is_there_with_its_name() -> None:
    told = [said("a", 100.0, ("redis", "away"), ("route", "stuck")), said("b", 99.0)]
    assert list(blames(told, {"capsules:0": "a", "capsules:1": "b"}, at_s=100.0)) == [
        Blame("redis", "away", "a"),
        Blame("route", "stuck", "a"),
    ]


def test_a_worker_that_has_stopped_telling_is_named() -> None:
    assert list(blames([said("a", 95.0)], {}, at_s=100.0)) == [
        Blame("worker", "it has said nothing for 5 s", "a")
    ]


def test_a_worker_that_holds_partitions_and_tells_nothing_is_named() -> None:
    owners = {"capsules:0": "a", "capsules:1": "b", "capsules:2": "b"}
    assert list(blames([said("a", 100.0)], owners, at_s=100.0)) == [
        Blame("worker", "it holds 2 partitions and says nothing", "b")
    ]


def test_a_worker_of_a_version_that_tells_no_reasons_is_passed_over() -> None:
    assert list(blames([{"worker": "a", "at_s": 100.0}], {}, at_s=100.0)) == []
