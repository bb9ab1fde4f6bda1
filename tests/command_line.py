"""The project's commands as a person or a script calls them: a process, its output, its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from tests.fork_server import Order
from tests.forked_process import ForkedProcess
from tests.worker_process import WorkerProcess

__all__ = ["command_line", "run_command"]


def command_line(*arguments: str) -> list[str]:
    """Return what starts a command."""
    return [sys.executable, "-m", "faust", "-A", "streams.app", *arguments]


def run_command(
    directory: Path,
    settings: Mapping[str, str],
    *arguments: str,
    columns: int = 100,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings and no others, and return how it ended."""
    order = Order(
        "faust",
        ["-A", "streams.app", *arguments],
        str(directory),
        WorkerProcess.environment(**settings) | {"COLUMNS": str(columns)},
        leads_session=False,
    )
    with TemporaryFile("w+") as given, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        given.write(stdin)
        given.seek(0)
        process = ForkedProcess(order, (given.fileno(), output.fileno(), errors.fileno()))
        try:
            code = process.wait(60)
        finally:
            process.kill()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(process.args, code, output.read(), errors.read())
