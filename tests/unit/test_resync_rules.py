"""The rules of `resync`, against a grid with every pair of words."""

from __future__ import annotations

import pytest

from streams.resync.rules import STATUSES, Kind, Verdict, judge
from tests.resync_grid import GRID, ROW_STATUSES, expected


def test_the_grid_has_every_pair() -> None:
    assert set(ROW_STATUSES) == STATUSES
    assert {word for word in GRID if word is not None} == STATUSES
    assert None in GRID


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("reported", GRID)
@pytest.mark.parametrize("row_status", [*ROW_STATUSES, "a new word", None])
def test_the_rules_are_the_grid(
    row_status: str | None, reported: str | None, settled: bool
) -> None:
    verdict = judge(row_status, reported, settled=settled)
    found = None if verdict is None else (verdict.kind.value, verdict.to)
    assert found == expected(row_status, reported, settled=settled)


def test_a_change_leads_to_where_they_agree() -> None:
    for reported in GRID:
        for status in ROW_STATUSES:
            verdict = judge(status, reported, settled=True)
            if verdict is not None and verdict.kind is Kind.CHANGE:
                assert judge(verdict.to, reported, settled=False) is None


def test_an_ended_row_is_brought_back_only_if_it_was_missing() -> None:
    for status in ("stopped", "error"):
        for reported in GRID:
            assert judge(status, reported, settled=True) in (None, Verdict(Kind.CONFLICT))
