"""A sink that keeps each event in an SQLite file, once."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel

from streams.errors import DeliveryError
from streams.events import SandboxEvent


class SqliteSink:
    class Options(BaseModel):
        path: Path

    def __init__(self, name: str, options: Options) -> None:
        self._path = options.path
        self._writing = asyncio.Lock()

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        try:
            async with self._writing:
                await asyncio.to_thread(self._insert, event)
        except sqlite3.OperationalError:
            raise DeliveryError("the file cannot be written") from None

    def _insert(self, event: SandboxEvent) -> None:
        with closing(sqlite3.connect(self._path, timeout=0.5)) as file, file:
            file.execute("create table if not exists events (id primary key, event)")
            row = (event.delivery_id, event.to_bytes())
            file.execute("insert or ignore into events values (?, ?)", row)
