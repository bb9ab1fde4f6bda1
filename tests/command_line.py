"""The project's commands as a person or a script calls them: a process, its output, its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.worker_process import WorkerProcess

__all__ = ["command_line", "run_command"]


def command_line(*arguments: str) -> list[str]:
    """Return what starts a command."""
    return [sys.executable, "-m", "faust", "-A", "streams.app", *arguments]


def run_command(
    directory: Path, settings: dict[str, str], *arguments: str, columns: int = 100
) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings and no others, and return how it ended."""
    return subprocess.run(
        command_line(*arguments),
        cwd=directory,
        env=WorkerProcess.environment(**settings) | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
