"""A worker with a fault in one stage: ``python -m tests.faults.stuck_worker``.

Its stage `pause` never comes back from its first statement, and waits for no server and no sink.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from tests.worker_process import WorkerProcess

__all__ = ["StuckWorkerModule"]


class StuckWorkerModule(WorkerProcess):
    """What to run."""

    module: ClassVar[str] = "tests.faults.stuck_worker"


def main() -> None:
    """Break the stage, and be a worker."""
    from faust.cli.faust import cli

    from agents.report import Report
    from agents.verb import VerbAgent

    apply = VerbAgent._apply

    async def stuck(self: VerbAgent, reports: list[Report], *, alone: bool = False) -> Any:
        if self.name == "pause":
            await asyncio.Event().wait()
        return await apply(self, reports, alone=alone)

    VerbAgent._apply = stuck  # type: ignore[method-assign]
    cli()


if __name__ == "__main__":
    main()
