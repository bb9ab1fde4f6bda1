"""config/kubernetes, checked by reading it: no cluster runs here."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings, env_name, load_settings
from config.urls import EMBEDDED
from tests.unit import test_compose
from tests.unit.test_compose import compose, dockerfile

FOLDER = Path(__file__).parents[2] / "config/kubernetes"
KNOWN = {env_name(field) for field in Settings.model_fields} | {"CAPSULES_CONFIG"}
SECRETS = {
    "REDIS_URL": "rediss://app:secret@redis:6379/0",
    "DATABASE_URL": "postgresql://app:secret@postgres/wrenn",
    "MIGRATE_DATABASE_URL": "postgresql://owner:secret@postgres/wrenn",
}


def objects() -> dict[str, Any]:
    """What is in the folder, by kind."""
    found = [
        document
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    by_kind = {document["kind"]: document for document in found}
    assert len(by_kind) == len(found)
    return by_kind


def pod(kind: str) -> dict[str, Any]:
    template: dict[str, Any] = objects()[kind]["spec"]["template"]
    return template


def container(kind: str) -> dict[str, Any]:
    [found] = pod(kind)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(kind: str, tmp_path: Path) -> dict[str, str]:
    """The variables of a container, with the Secret's and the ConfigMap's part filled in."""
    variables = {}
    for variable in container(kind)["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            variables[variable["name"]] = SECRETS[source["secretKeyRef"]["key"]]
        elif "fieldRef" in source:
            variables[variable["name"]] = "capsule-reconciler-5d9c8b7f4-x2x7k"
        else:
            variables[variable["name"]] = variable["value"]
    if "CAPSULES_CONFIG" in variables:
        mounts = {m["name"]: m["mountPath"] for m in container(kind)["volumeMounts"]}
        name = variables["CAPSULES_CONFIG"].removeprefix(f"{mounts['config']}/")
        file = tmp_path / "config.toml"
        file.write_text(objects()["ConfigMap"]["data"][name], encoding="utf-8")
        variables["CAPSULES_CONFIG"] = str(file)
    return variables


def settings(kind: str, tmp_path: Path) -> Settings:
    return load_settings(environment(kind, tmp_path), cwd=tmp_path)


BOTH = pytest.mark.parametrize("kind", ["Deployment", "Job"])


@BOTH
def test_every_variable_is_a_setting(kind: str, tmp_path: Path) -> None:
    assert set(environment(kind, tmp_path)) <= KNOWN


@BOTH
def test_the_settings_are_accepted_and_no_pod_runs_servers_of_its_own(
    kind: str, tmp_path: Path
) -> None:
    urls = settings(kind, tmp_path).redis_url, settings(kind, tmp_path).database_url
    assert EMBEDDED not in urls


@BOTH
def test_urls_come_from_the_secret(kind: str) -> None:
    urls = [v for v in container(kind)["env"] if v["name"].endswith("_URL")]
    assert len(urls) == 2
    assert all("secretKeyRef" in variable["valueFrom"] for variable in urls)


@BOTH
def test_a_pod_has_no_more_rights_than_it_needs(kind: str) -> None:
    about = pod(kind)["spec"]
    assert about["securityContext"]["runAsNonRoot"] is True
    # The user of the image, which owns nothing there.
    assert f"--uid {about['securityContext']['runAsUser']} " in " ".join(dockerfile())
    assert about["automountServiceAccountToken"] is False
    own = container(kind)["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}


@BOTH
def test_a_pod_says_what_it_needs(kind: str) -> None:
    resources = container(kind)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert "memory" in resources["limits"]


def test_a_worker_is_not_killed_while_it_drains(tmp_path: Path) -> None:
    found = settings("Deployment", tmp_path)
    grace_s = pod("Deployment")["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > found.drain_timeout_s + found.lease_s / 2


def test_an_upgrade_takes_no_worker_away_before_another_is_ready() -> None:
    spec = objects()["Deployment"]["spec"]
    assert spec["replicas"] > 1
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert objects()["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("kind", ["Deployment", "PodDisruptionBudget"])
def test_what_is_selected_is_the_workers_and_not_the_job(kind: str) -> None:
    selected = objects()[kind]["spec"]["selector"]["matchLabels"].items()
    assert selected <= pod("Deployment")["metadata"]["labels"].items()
    assert not selected <= pod("Job")["metadata"]["labels"].items()


def test_the_ready_file_is_where_a_worker_may_write(tmp_path: Path) -> None:
    folder = str(Path(settings("Deployment", tmp_path).ready_file).parent)
    mounts = {mount["mountPath"]: mount for mount in container("Deployment")["volumeMounts"]}
    assert not mounts[folder].get("readOnly")
    volumes = {volume["name"]: volume for volume in pod("Deployment")["spec"]["volumes"]}
    assert "emptyDir" in volumes[mounts[folder]["name"]]


@pytest.mark.parametrize(("age_s", "ready"), [(0, True), (5, True), (30, False), (None, False)])
def test_the_probe_says_yes_only_to_a_file_that_is_fresh(
    tmp_path: Path, age_s: int | None, ready: bool
) -> None:
    file = tmp_path / "ready"
    if age_s is not None:
        file.touch()
        os.utime(file, times=(time.time() - age_s,) * 2)
    command = container("Deployment")["readinessProbe"]["exec"]["command"]
    named = settings("Deployment", tmp_path).ready_file
    assert any(named in word for word in command)
    here = [word.replace(named, str(file)) for word in command]
    assert (subprocess.run(here, capture_output=True, check=False).returncode == 0) is ready


def test_a_worker_that_waits_for_a_server_is_not_restarted() -> None:
    assert "livenessProbe" not in container("Deployment")


def test_docker_compose_asks_the_same_of_a_worker(tmp_path: Path) -> None:
    worker = compose()["services"]["worker"]
    asked = [word.replace("$$", "$") for word in worker["healthcheck"]["test"]]
    here = test_compose.environment("worker")["CAPSULES_READY_FILE"]
    probe = container("Deployment")["readinessProbe"]["exec"]["command"]
    there = settings("Deployment", tmp_path).ready_file
    assert asked == ["CMD", *(word.replace(there, here) for word in probe)]


def test_both_run_the_same_image() -> None:
    assert container("Deployment")["image"] == container("Job")["image"]
