"""What happened in a soak, one JSON object a line, for whoever looks at a run that failed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

__all__ = ["History"]


class History:
    """An append-only file; `note` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._began_s = time.monotonic()

    def note(self, what: str, **details: object) -> None:
        """Append one line; `at_s` is since the beginning."""
        line = {"at_s": round(time.monotonic() - self._began_s, 3), "what": what, **details}
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
