"""Many workers: order holds, nothing is lost, and a leaver moves only what it held."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.fleet import FleetMachine, receiver_in_a_thread
from tests.reconciliation import Ground

#: What is measured here is measured on a machine that does nothing else.
pytestmark = pytest.mark.alone


@pytest.mark.timeout(600)
def test_workers_that_come_and_go_in_any_way_end_as_the_oracle_says(
    ground: Ground, tmp_path: Path
) -> None:
    with receiver_in_a_thread() as receiver:
        run_state_machine_as_test(
            lambda: FleetMachine(  # type: ignore[arg-type]  # any callable does
                ground, tmp_path, receiver, events=50_000, steps=20
            ),
            settings=settings(
                max_examples=2,
                stateful_step_count=20,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
