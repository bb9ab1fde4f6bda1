"""Everything at once, for a minute: `make soak` is the same for ten."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.soak.faults import FAULTS
from tests.soak.soak import Plan, soak

#: What is measured here is measured on a machine that does nothing else.
pytestmark = pytest.mark.alone


@pytest.mark.timeout(300)
def test_after_a_minute_of_load_and_faults_of_every_kind_the_account_balances() -> None:
    plan = Plan(duration_s=45, rate=1_000, fault_every_s=4, seed=20)
    # Not in pytest's own directory: that is closed to the system user Postgres runs as.
    directory = Path(tempfile.mkdtemp(prefix="capsules-soak-"))
    report = soak(plan, directory, print)
    assert report.complaints == [], f"logs and history are in {directory}"
    shutil.rmtree(directory)
    assert len(report.faults) == len(FAULTS)
    assert report.ends.keys() >= {"done", "skipped", "dead"}
    assert sum(report.ends.values()) == report.published > 20_000
