"""What Kubernetes, KEDA and Prometheus ask a worker is what it answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from yarl import URL

from streams.figures.backlog import Backlog, Backlogs
from streams.operations.routes import PATHS
from streams.operations.scaling import ENTRIES_PER_WORKER, Demand, demand
from streams.operations.soundings import Waiting
from streams.transport import Stream, StreamConfig, StreamLayout
from tests.unit.test_kubernetes import FOLDER, container, objects, settings

NAME = "capsule-reconciler"


def optional(probe: str) -> dict[str, Any]:
    """A probe of worker.yaml that is commented out."""
    text = (FOLDER / "worker.yaml").read_text(encoding="utf-8")
    found = re.search(rf"^ *# ({probe}:\n(?: *#   .*\n)+)", text, re.MULTILINE)
    assert found is not None
    loaded = yaml.safe_load(re.sub(r"(?m)^ *# ", "", found[1]))
    assert isinstance(loaded, dict)
    probed: dict[str, Any] = loaded[probe]
    return probed


@pytest.mark.parametrize(
    ("probe", "path"), [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]
)
def test_the_probes_one_may_choose_ask_for_what_there_is(probe: str, path: str) -> None:
    asked = optional(probe)
    assert path in PATHS
    assert asked["httpGet"] == {"path": path, "port": "web"}
    # An answer takes two seconds for each server that does not answer.
    assert asked["timeoutSeconds"] > 2 * 2
    assert asked["failureThreshold"] > 1


def test_the_port_that_is_asked_is_the_one_that_is_listened_on(tmp_path: Path) -> None:
    found = settings("Deployment", tmp_path)
    (port,) = container("Deployment")["ports"]
    assert port == {"name": "web", "containerPort": found.web_port}
    assert found.web_bind == "0.0.0.0"  # noqa: S104
    (offered,) = objects()["Service"]["spec"]["ports"]
    assert (offered["port"], offered["targetPort"]) == (found.web_port, "web")


def test_only_who_has_to_may_reach_the_port() -> None:
    policy = objects()["NetworkPolicy"]["spec"]
    workers = objects()["Deployment"]["spec"]["selector"]
    assert policy["podSelector"] == workers
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert rule["from"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "web"}]
    assert objects()["Service"]["spec"]["selector"] == workers["matchLabels"]


def test_keda_asks_the_service_for_a_figure_that_is_in_the_answer(tmp_path: Path) -> None:
    scaled = objects()["ScaledObject"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    target = scaled["spec"]["scaleTargetRef"]
    deployment = objects()["Deployment"]
    assert target["kind"] == "Deployment"
    assert target["name"] == deployment["metadata"]["name"]
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "metrics-api"
    asked = trigger["metadata"]
    # All of KEDA's are texts; these are the fields of its metrics-api scaler that are relied on.
    assert set(asked) == {"url", "format", "valueLocation", "targetValue"}
    assert all(isinstance(value, str) for value in asked.values())
    url = URL(asked["url"])
    assert url.path in PATHS
    assert url.port == settings("Deployment", tmp_path).web_port
    assert str(url.host).split(".")[0] == objects()["Service"]["metadata"]["name"]
    answer = demand_for(0).as_dict()
    assert isinstance(answer[asked["valueLocation"]], int)
    assert (trigger["metricType"], asked["targetValue"]) == ("AverageValue", "1")


def test_keda_keeps_the_number_of_workers_where_they_are_of_use(tmp_path: Path) -> None:
    spec = objects()["ScaledObject"]["spec"]
    partitions = settings("Deployment", tmp_path).partitions
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    assert spec["maxReplicaCount"] * 4 <= partitions


def demand_for(source: int, *, hooks: int = 0, blocked_by: str = "") -> Demand:
    """What so many entries, in the source and in one sink's topic, ask for."""
    layout = StreamLayout("p:")
    layout.declare("source", 1, StreamConfig(external_key="source"))
    layout.declare("capsules", 16, StreamConfig())
    layout.declare("hooks.billing", 16, StreamConfig())
    backlogs: dict[Stream, Backlog] = {
        layout.streams("source")[0]: Backlog(source, 0, 3.0 if source else None),
        layout.streams("hooks.billing")[2]: Backlog(0, hooks, 9.0 if hooks else None),
    }
    stages = {"hook.billing": {"blocked_by": blocked_by, "blocked_s": 5.0 if blocked_by else 0.0}}
    waiting = Waiting(Backlogs(1.0, backlogs), [{"stages": stages}])
    return demand(waiting, layout, ["source", "capsules", "hooks.billing"])


@pytest.mark.parametrize(
    ("entries", "workers"),
    [
        (0, 1),
        (1, 1),
        (ENTRIES_PER_WORKER, 1),
        (ENTRIES_PER_WORKER + 1, 2),
        (ENTRIES_PER_WORKER * 15 + 1, 16),
        (10_000_000, 16),
    ],
)
def test_the_hint_grows_with_the_backlog_and_ends_at_the_partitions(
    entries: int, workers: int
) -> None:
    found = demand_for(entries)
    assert (found.backlog, found.desired_workers) == (entries, workers)


def test_what_waits_for_a_sink_that_is_away_asks_for_no_workers() -> None:
    found = demand_for(10, hooks=50_000, blocked_by="sink.billing")
    assert (found.backlog, found.held_up, found.desired_workers) == (50_010, 50_000, 1)
    assert found.oldest_age_s == 9.0
    assert demand_for(10, hooks=50_000).desired_workers == 16


def test_what_waits_for_postgres_asks_for_no_workers_beyond_those_that_route() -> None:
    found = demand_for(ENTRIES_PER_WORKER * 3, blocked_by="postgres")
    assert (found.held_up, found.desired_workers) == (0, 3)
