"""What holds for all tests: hypothesis does not judge how fast a busy machine is; workers fork."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.worker_process import WorkerProcess

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

WorkerProcess.is_forked = True
