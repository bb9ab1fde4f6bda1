"""The tables of faults are the tests that there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs/faults.md"
SECTION = re.compile(r"(?ms)^## [^\n]*: `tests/faults/(\w+)\.py`$(.*?)(?=^## )")
SECTIONS = dict(SECTION.findall(DOCUMENT.read_text(encoding="utf-8")))


def cases(module: ModuleType) -> list[str]:
    """The named cases of each test that has some, else the test's own name, in words."""
    found: list[str] = []
    for name, test in vars(module).items():
        if name.startswith("test_"):
            named = [
                case
                for mark in getattr(test, "pytestmark", [])
                for case in mark.kwargs.get("ids") or ()
            ]
            found += named or [name.removeprefix("test_").replace("_", " ")]
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_each_fault_of_the_document_is_a_test_and_each_test_is_in_it(section: str) -> None:
    first_cells = re.findall(r"^\| ([^|]+) \|", SECTIONS[section], re.MULTILINE)
    assert first_cells[0] == "fault"
    module = importlib.import_module(f"tests.faults.{section}")
    assert sorted(first_cells[1:]) == sorted(cases(module))


AT_THE_START = "log: `waiting_for_server`"
NAMED = {name: text for name, text in SECTIONS.items() if "| named |" in text}


@pytest.mark.parametrize("section", NAMED)
def test_the_document_says_of_each_case_whether_it_is_named_or_only_counted(section: str) -> None:
    module = importlib.import_module(f"tests.faults.{section}")
    said = dict(re.findall(r"^\| ([^|]+) \|.*\| ([^|]+) \|$", NAMED[section], re.MULTILINE))
    for name, outage in module.OUTAGES.items():
        assert said[name].startswith("counted: ") is not getattr(outage, "named", True), name
    culprit = f"`{module.CULPRIT}`"
    allowed = {"named", culprit, f"counted: {culprit}", AT_THE_START, "nothing"}
    assert set(said.values()) <= allowed


def test_there_are_seven_kinds_of_faults_and_more_than_fifty_cases() -> None:
    assert len(SECTIONS) == 7
    assert sum(text.count("\n| ") - 1 for text in SECTIONS.values()) > 50
