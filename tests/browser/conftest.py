"""A real browser, and a worker whose page it looks at."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from config.embedded import EphemeralServers
from streams.ids import format_capsule_id, format_team_id
from tests.integration.conftest import TEMPLATE, execute, servers
from tests.integration.watching import WatchedWorker
from tests.reconciliation import SOURCE, Ground, Receiver

__all__ = ["TOKEN", "Scene", "servers"]

TOKEN = "correct-horse-battery"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
)


class _Receiver(BaseHTTPRequestHandler):
    """Takes deliveries, or refuses them while its server is down."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_down: threading.Event = self.server.is_down  # type: ignore[attr-defined]
        self.send_response(503 if is_down.is_set() else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@dataclass
class Scene:
    """A worker with two sinks, one of which can be taken down."""

    ground: Ground
    worker: WatchedWorker
    sink_is_down: threading.Event
    published: int = field(default=0)

    @property
    def url(self) -> str:
        """Where the worker's web server is."""
        return f"http://127.0.0.1:{self.worker.port}"

    @contextmanager
    def flow(self, per_s: int = 100) -> Iterator[None]:
        """Publish so many events a second meanwhile."""
        ended = threading.Event()

        def publish() -> None:
            with self.ground.redis() as client:
                while not ended.wait(0.1):
                    pipeline = client.pipeline(transaction=False)
                    for _ in range(per_s // 10):
                        pipeline.xadd(SOURCE, {"payload": event(uuid.uuid4())})
                    pipeline.execute()
                    self.published += per_s // 10

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def publish(self, payload: str) -> None:
        """Append one entry to the producer's stream."""
        with self.ground.redis() as client:
            client.xadd(SOURCE, {"payload": payload})


def event(capsule: uuid.UUID, name: str = "capsule.pause", **more: object) -> str:
    """Return a payload as hosts send it."""
    return json.dumps(
        {
            "event": name,
            "outcome": "success",
            "timestamp": "2026-03-01T12:00:00Z",
            "team_id": format_team_id(uuid.UUID(int=1)),
            "actor": {"type": "system"},
            "resource": {"id": format_capsule_id(capsule), "type": "sandbox"},
        }
        | more
    )


@pytest.fixture(scope="session")
def scene(servers: EphemeralServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests: to start a worker takes longer than to look at it."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    execute(servers.database_url, f"create database page template {TEMPLATE}")
    ground = Ground(servers.redis_url, servers.postgres.url_of("page"))
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    is_down = threading.Event()
    receiver.is_down = is_down  # type: ignore[attr-defined]
    serving = threading.Thread(target=receiver.serve_forever)
    serving.start()
    [webhook] = json.loads(Receiver(receiver.server_port).settings()["CAPSULES_SINKS"])
    sinks = [webhook | {"name": "billing"}, {"name": "audit", "type": "log"}]
    worker = WatchedWorker(
        tmp_path_factory.mktemp("worker"),
        **ground.settings(
            CAPSULES_SINKS=json.dumps(sinks),
            CAPSULES_WEB_TOKEN=TOKEN,
            CAPSULES_WORKER_NAME="worker-1",
            LOG_LEVEL="warning",
        ),
    )
    try:
        yield Scene(ground, worker, is_down)
    finally:
        worker.kill()
        receiver.shutdown()
        serving.join()
        receiver.server_close()


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Debian's Chromium, without a window."""
    options = ChromeOptions()
    options.binary_location = _installed("chromium")
    for flag in _FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(_installed("chromedriver")))
    try:
        driver.set_page_load_timeout(20)
        yield driver
    finally:
        driver.quit()


def _installed(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: `make test-browser` does that"
    return str(Path(found))


@pytest.fixture
def browser(driver: Chrome, scene: Scene) -> Iterator[Chrome]:
    """The browser as it was at first, once the page is there; a script's fault fails the test."""
    deadline = time.monotonic() + 30
    while not _answers(scene):
        assert time.monotonic() < deadline, scene.worker.tail()
        time.sleep(0.1)
    show(driver, 1280, 900)
    driver.get(f"{scene.url}/topology/static/icon.svg")
    driver.delete_all_cookies()
    console(driver)
    yield driver
    driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {}})
    faults = [
        line["message"]
        for line in console(driver)
        if line["level"] == "SEVERE" and "Failed to load resource" not in line["message"]
    ]
    assert faults == []


def console(driver: Chrome) -> list[dict[str, str]]:
    """Return what the browser has written to its console since the last time."""
    lines: list[dict[str, str]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return lines


def _answers(scene: Scene) -> bool:
    try:
        with urllib.request.urlopen(f"{scene.url}/topology.json", timeout=5) as response:  # noqa: S310
            return all(node["state"] != "unowned" for node in json.load(response)["nodes"])
    except (urllib.error.URLError, OSError):
        return False


def show(driver: Chrome, width: int, height: int, *, dark: bool = False) -> None:
    """Have the browser be of another size, or in the dark."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = "dark" if dark else "light"
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
