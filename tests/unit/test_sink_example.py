"""The example of docs/sinks.md keeps the contract, by the kit that the same page describes."""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from agents.hooks.testing import check_sink
from examples.sqlite_sink import SqliteSink

ROOT = Path(__file__).parents[2]


async def test_the_example_keeps_the_contract(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "events.db"

    def delivered() -> list[str]:
        with closing(sqlite3.connect(path)) as file:
            return [delivery_id for (delivery_id,) in file.execute("select id from events")]

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        folder.rename(tmp_path / "away")
        yield
        (tmp_path / "away").rename(folder)

    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("begin exclusive")
            yield

    report = await check_sink(
        lambda: SqliteSink("example", SqliteSink.Options(path=path)),
        delivered=delivered,
        broken=broken,
        hanging=hanging,
    )

    assert report.not_shown == []


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "sinks.md").read_text(encoding="utf-8")
    code = (ROOT / "examples" / "sqlite_sink.py").read_text(encoding="utf-8")
    assert f"```python\n{code}```" in page


async def test_the_test_that_the_page_shows_passes(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "sinks.md").read_text(encoding="utf-8")
    [code] = re.findall(
        r"```python\n([^`]*async def test_it_keeps_the_contract.*?)```", page, re.DOTALL
    )
    (tmp_path / "test_archive.py").write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("test_archive", tmp_path / "test_archive.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    await module.test_it_keeps_the_contract(tmp_path)
