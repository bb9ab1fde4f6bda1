"""The page shows the truth, changes nothing for strangers, and never costs the worker its life."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import aiohttp
import pytest
import redis.asyncio

from config.embedded import EphemeralServers
from streams.ids import format_capsule_id
from streams.postgres import Postgres
from streams.sinks.deliveries import Delivery, DeliveryRecord, Status
from streams.transport import StreamConfig, StreamLayout, partition_of
from streams.web.capsule import read_history
from streams.web.letters import BadQuestionError, parse_filter
from tests.integration.test_live import picture
from tests.integration.watching import WatchedWorker
from tests.reconciliation import GROUP, PREFIX, Ground
from tests.worker_process import eventually

TOKEN = "correct-horse-battery"
SCRIPT = "<script>alert('x')</script>"
LETTERS = "/topology/dead-letters"
CAPSULE = UUID(int=7)


class Page:
    """The page of one worker."""

    def __init__(self, worker: WatchedWorker, session: aiohttp.ClientSession) -> None:
        self.worker = worker
        self.origin = f"http://127.0.0.1:{worker.port}"
        self.session = session

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.origin + path) as response:
            return response.status, await response.text()

    async def post(self, path: str, form: list[tuple[str, str]], **headers: str) -> tuple[int, str]:
        async with self.session.post(
            self.origin + path, data=form, headers=headers, allow_redirects=False
        ) as response:
            return response.status, await response.text()

    async def log_in(self) -> str:
        """Return what the page's forms carry from now on."""
        form = [("token", TOKEN)]
        status, _ = await self.post("/topology/login", form, Origin=self.origin)
        assert status == 303
        _, text = await self.get(LETTERS)
        found = re.search(r'name="form_token" value="([0-9a-f]+)"', text)
        assert found is not None
        return found[1]


@asynccontextmanager
async def page_of(ground: Ground, directory: Path, **settings: str) -> AsyncIterator[Page]:
    sinks = json.dumps([{"name": "log", "type": "log"}])
    worker = WatchedWorker(directory, **ground.settings(CAPSULES_SINKS=sinks, **settings))
    # Cookies of an address that is a number are kept as well.
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        async with aiohttp.ClientSession(
            cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=20)
        ) as session:
            await worker.wait_for("partitions_taken")
            yield Page(worker, session)
        began = time.monotonic()
        assert await worker.stop() == 0
        assert time.monotonic() - began < 10
    finally:
        worker.process.kill()


def add_letter(ground: Ground, text: str = "no team", **columns: Any) -> int:
    """Have a dead letter in the table, and return its number."""
    values = {
        "origin_id": f"{time.time_ns()}-0",
        "stage": "failure",
        "sink": "",
        "reason": "no_team",
        "error": text,
        "entry_key": CAPSULE.bytes,
        "payload": text.encode(),
    } | columns
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into capsule_reconciler.dead_letters (origin_id, source_id, stage, sink,"
            " reason, error, attempts, first_at, last_at, entry_key, payload)"
            " values (%(origin_id)s, %(origin_id)s, %(stage)s, %(sink)s, %(reason)s, %(error)s,"
            " 1, now(), now(), %(entry_key)s, %(payload)s) returning id",
            values,
        )
        (number,) = cursor.fetchone()
    assert isinstance(number, int)
    return number


def state_of(ground: Ground, number: int) -> str:
    with ground.cursor() as cursor:
        cursor.execute("select state from capsule_reconciler.dead_letters where id = %s", (number,))
        (state,) = cursor.fetchone()
    return str(state)


async def test_the_document_is_the_one_that_the_command_prints(
    ground: Ground, tmp_path: Path
) -> None:
    async with page_of(ground, tmp_path) as page:
        await eventually(lambda: page.worker.said("partitions_taken"), what="partitions")
        status, text = await page.get("/topology.json")
        printed = await asyncio.to_thread(
            picture, ground, tmp_path, CAPSULES_SINKS='[{"name":"log","type":"log"}]'
        )
    found = json.loads(text)
    assert status == 200
    assert found.keys() == printed.keys()
    for part in ("nodes", "edges"):
        assert [list(item) for item in found[part]] == [list(item) for item in printed[part]]
    assert [node["name"] for node in found["nodes"]] == [node["name"] for node in printed["nodes"]]


async def test_each_answer_has_the_strict_headers(ground: Ground, tmp_path: Path) -> None:
    async with page_of(ground, tmp_path) as page:
        for path in ("/topology", "/topology.json", "/topology/events", "/topology/static/live.js",
                     LETTERS, "/topology/no", "/topology/capsule?id=none", "/metrics"):  # fmt: skip
            async with page.session.get(page.origin + path) as response:
                headers = response.headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert "aiohttp" not in headers["Server"]
        for path in ("/topology", LETTERS, "/topology/capsule", "/topology/login"):
            _, text = await page.get(path)
            assert not re.search(r"<style|style=|<script(?! src=\"/topology/static)| on\w+=", text)
            assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def readings(ground: Ground) -> int:
    """How often the backlogs were read."""
    with ground.redis() as client:
        return int(client.info("commandstats").get("cmdstat_eval", {}).get("calls", 0))


async def test_all_viewers_share_one_reading_a_second_and_nobody_costs_none(
    ground: Ground, tmp_path: Path
) -> None:
    async with page_of(ground, tmp_path) as page:
        before = readings(ground)
        await asyncio.sleep(2.5)
        assert readings(ground) == before
        async with AsyncExitStack() as stack:
            viewers = [
                await stack.enter_async_context(page.session.get(page.origin + "/topology/events"))
                for _ in range(8)
            ]
            began, before = time.monotonic(), readings(ground)
            for viewer in viewers:
                frames = 0
                while frames < 4:
                    frames += (await viewer.content.readline()).startswith(b"event: frame")
            for _ in range(20):
                assert (await page.get("/topology.json"))[0] == 200
            took_s = time.monotonic() - began
            assert 2 <= readings(ground) - before <= took_s + 2
            for viewer in viewers:
                viewer.close()

        async def is_quiet() -> bool:
            now = readings(ground)
            await asyncio.sleep(2.5)
            return readings(ground) == now

        assert await is_quiet() or await is_quiet()


async def test_no_more_than_so_many_may_look_and_none_of_them_holds_a_worker_that_stops(
    ground: Ground, tmp_path: Path
) -> None:
    async with (
        page_of(ground, tmp_path) as page,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as many,
    ):
        statuses = [(await many.get(page.origin + "/topology/events")).status for _ in range(34)]
        assert statuses == [200] * 32 + [503] * 2
        assert await page.worker.stop(timeout_s=10) == 0


async def test_without_a_token_nothing_can_be_changed(ground: Ground, tmp_path: Path) -> None:
    number = str(add_letter(ground))
    async with page_of(ground, tmp_path) as page:
        _, text = await page.get(LETTERS)
        assert "<button" not in text.partition("</header>")[2].replace("<button>Show</button>", "")
        for path in (f"{LETTERS}/replay", f"{LETTERS}/discard", "/topology/logout"):
            for headers in ({}, {"Authorization": "Bearer "}, {"Origin": page.origin}):
                status, _ = await page.post(path, [("id", number), ("form_token", "")], **headers)
                assert status == 403
            status, _ = await page.get(path)
            assert status == 405
        form = [("token", "")]
        assert (await page.post("/topology/login", form, Origin=page.origin))[0] == 403
    assert state_of(ground, int(number)) == "dead"


async def test_an_order_is_taken_only_from_the_page_itself_or_with_the_token(
    ground: Ground, tmp_path: Path
) -> None:
    first, second, third = (add_letter(ground) for _ in range(3))
    path, other = f"{LETTERS}/discard", "http://evil.example"
    async with page_of(ground, tmp_path, CAPSULES_WEB_TOKEN=TOKEN) as page:
        form = [("id", str(first))]
        wrong = [("token", TOKEN + "x")]
        assert (await page.post("/topology/login", wrong, Origin=page.origin))[0] == 403
        assert (await page.post("/topology/login", [("token", TOKEN)], Origin=other))[0] == 403
        assert (await page.post("/topology/login", [("token", TOKEN)]))[0] == 403
        assert (await page.post(path, form, Origin=page.origin))[0] == 403
        token = await page.log_in()
        [cookie] = page.session.cookie_jar
        assert cookie["httponly"]
        assert cookie["samesite"] == "Strict"
        assert TOKEN not in cookie.value
        whole = [*form, ("form_token", token)]
        refused: list[tuple[list[tuple[str, str]], dict[str, str]]] = [
            (form, {"Origin": page.origin}),
            ([*form, ("form_token", "0" * 64)], {"Origin": page.origin}),
            ([*form, ("form_token", "\udce4".encode("utf-8", "surrogatepass").decode("latin-1"))],
             {"Origin": page.origin}),
            (whole, {}),
            (whole, {"Origin": other}),
            (whole, {"Origin": "null"}),
            (whole, {"Origin": page.origin.replace("http:", "https:").replace("127.0.0.1", "x")}),
            (whole, {"Origin": page.origin, "Sec-Fetch-Site": "cross-site"}),
            (whole, {"Authorization": "Bearer wrong"}),
            (whole, {"Authorization": f"Bearer {TOKEN}", "Origin": other}),
            (whole, {"Authorization": f"Basic {TOKEN}"}),
        ]  # fmt: skip
        for fields, headers in refused:
            status, _ = await page.post(path, fields, **headers)
            assert (status, fields, headers) == (403, fields, headers)
        assert state_of(ground, first) == "dead"
        status, _ = await page.post(path, whole, Origin=page.origin)
        assert (status, state_of(ground, first)) == (303, "discarded")
        page.session.cookie_jar.clear()
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        status, text = await page.post(path, [("id", str(second))], **bearer)
        assert (status, json.loads(text)) == (200, {"discarded": 1})
        # Of an order that does not fit one of its letters, nothing is carried out.
        both = [("id", str(third)), ("id", str(second))]
        assert (await page.post(path, both, **bearer))[0] == 409
        assert state_of(ground, third) == "dead"
        status, text = await page.post(f"{LETTERS}/replay", [("id", str(third))], **bearer)
        assert (status, json.loads(text)) == (200, {"replayed": 1})
        # It goes where the rules judge it afresh, and this payload is no better than before.
        await eventually(lambda: state_of(ground, third) == "dead", what="the second death")
        for bad in ("0", "-1", "x", "9" * 19, "1" * 40, "²"):
            assert (await page.post(path, [("id", bad)], **bearer))[0] == 400
        assert (await page.post(path, [("id", "1" * 20_000)], **bearer))[0] == 413
        assert TOKEN not in page.worker.log_path.read_text("utf-8")


async def test_whatever_is_shown_is_text_and_no_markup(ground: Ground, tmp_path: Path) -> None:
    bidi = "\u202etxt.exe\x1b[2J"
    number = add_letter(ground, SCRIPT + bidi, stage=SCRIPT, sink=SCRIPT, reason=SCRIPT)
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into sandboxes (id, team_id, status, metadata, template)"
            " values (%s, %s, %s, %s, %s)",
            (str(CAPSULE), str(CAPSULE), SCRIPT, json.dumps({SCRIPT: SCRIPT}), SCRIPT),
        )
    said = {
        "at_s": time.time(), "worker": SCRIPT, "version": SCRIPT, "up_s": 1, "cpu": 0.5,
        "rss_bytes": 1, "not_ready": SCRIPT, "partitions": {SCRIPT: {"numbers": [1]}}, "flows": [],
        "stages": {}, "lanes": {},
    }  # fmt: skip
    capsule, error = format_capsule_id(CAPSULE), SCRIPT + bidi
    delivery = Delivery(SCRIPT, capsule, SCRIPT, Status.DEAD, 1, 1, error, 1, SCRIPT)
    async with redis.asyncio.Redis.from_url(ground.redis_url) as writing:
        await DeliveryRecord(writing, StreamLayout(PREFIX)).write("log", [delivery], keep=9)
    async with page_of(ground, tmp_path) as page:
        with ground.redis() as client:
            client.hset(f"{PREFIX}figures", SCRIPT, json.dumps(said))
        quoted = "%3Cscript%3Ealert('x')%3C/script%3E%22%3E"
        for path in ("/topology", LETTERS, f"{LETTERS}/{number}", f"{LETTERS}?stage={quoted}",
                     f"/topology/capsule?id={capsule}", f"/topology/capsule?id={quoted}",
                     "/topology/sinks/log", f"/topology/sinks/log?capsule={capsule}&status=dead",
                     f"/topology/{quoted}", f"{LETTERS}?since={quoted}"):  # fmt: skip
            _, text = await page.get(path)
            assert "<script>" not in text
            assert "alert" in text or path.startswith(("/topology/%3C", f"{LETTERS}?"))
            assert "\u202e" not in text
            assert "\x1b" not in text
        asked = [f"log?capsule={quoted}", "log?status=gone", "nope", "log?status=delivered"]
        answers = [await page.get(f"/topology/sinks/{question}") for question in asked]
        assert [status for status, _ in answers] == [400, 400, 404, 200]
        assert "data-delivery" not in answers[-1][1]
        _, text = await page.get(f"/topology/sinks/log?capsule={capsule}&status=dead")
        assert text.count("data-delivery") == 1
        with ground.redis() as client:
            # Figures that are none must not stop what looks at them.
            client.hset(f"{PREFIX}figures", "bad", json.dumps({"at_s": time.time(), "worker": 1}))
        await asyncio.sleep(1.1)
        status, text = await page.get("/topology")
        assert (status, "cannot be used: KeyError" in text) == (200, True)
        assert (await page.get("/topology.json"))[0] == 503


@pytest.mark.parametrize("query", ["stage=%00", "state=maybe", "since=yesterday", "sink=%E2%80%AE"])
def test_a_question_that_makes_no_sense_is_answered_so(query: str) -> None:
    with pytest.raises(BadQuestionError):
        parse_filter(dict(parse_qsl(query)))


async def test_servers_that_are_away_are_said_and_the_worker_lives(
    ground: Ground, servers: EphemeralServers, tmp_path: Path
) -> None:
    capsule = f"/topology/capsule?id={format_capsule_id(CAPSULE)}"
    async with page_of(ground, tmp_path) as page:
        async with page.session.get(page.origin + "/topology/events") as viewer:
            servers.stop_redis()
            try:
                while not (await viewer.content.readline()).startswith(b"event: trouble"):
                    pass
                status, text = await page.get("/topology")
                assert (status, "Redis: " in text) == (200, True)
                assert (await page.get("/topology.json"))[0] == 503
                status, text = await page.get(capsule)
                assert (status, "Redis does not answer" in text) == (503, True)
            finally:
                servers.start_redis()
            while not (await viewer.content.readline()).startswith(b"event: frame"):
                pass
        servers.stop_postgres("immediate")
        try:
            for path in (LETTERS, f"{LETTERS}/1", capsule):
                status, text = await page.get(path)
                assert (status, "Postgres does not answer" in text) == (503, True)
                assert "Traceback" not in text
            assert (await page.get("/topology"))[0] == 200
        finally:
            servers.start_postgres()
        assert (await page.get(LETTERS))[0] == 200
        assert page.worker.process.poll() is None


async def test_all_is_known_of_a_capsule_that_there_is_to_know(ground: Ground) -> None:
    number = add_letter(ground)
    in_text = add_letter(ground, f'{{"id": "{format_capsule_id(CAPSULE)}"', entry_key=None)
    other = add_letter(ground, entry_key=UUID(int=8).bytes)
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into sandboxes (id, team_id, status) values (%s, %s, 'pausing')",
            (str(CAPSULE), str(CAPSULE)),
        )
        cursor.execute(
            "insert into capsule_reconciler.watermarks (capsule_id, ms, seq) values (%s, 123, 4)",
            (str(CAPSULE),),
        )
    layout = StreamLayout(PREFIX)
    layout.declare("capsules", 4, StreamConfig())
    stream = layout.streams("capsules")[partition_of(CAPSULE.bytes, 4)].key
    payload = json.dumps({"event": "capsule.pause", "outcome": "success"})
    fields: Any = {"k": CAPSULE.bytes, "v": payload, "h:source-id": "123-5"}
    with ground.redis() as client:
        client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        done, *entries = (client.xadd(stream, fields) for _ in range(3))
        client.xadd(stream, fields | {"k": UUID(int=8).bytes})
        client.xreadgroup(GROUP, "somebody", {stream: ">"}, count=2)
        client.xack(stream, GROUP, done)
    postgres = Postgres(
        ground.database_url,
        pool_size=1,
        connect_timeout_s=5,
        statement_timeout_ms=5_000,
        lock_timeout_ms=1_000,
    )
    await postgres.open()
    async with redis.asyncio.Redis.from_url(ground.redis_url) as looking:
        record = DeliveryRecord(looking, layout)
        of_it = Delivery(
            "1-1", format_capsule_id(CAPSULE), "paused", Status.DEAD, 3, 1.0, "", 7, "2-1"
        )
        of_another = replace(of_it, delivery_id="1-2", capsule_id=format_capsule_id(UUID(int=8)))
        for sink in ("one", "two"):
            await record.write(sink, [of_it, of_another], keep=9)
        found = await read_history(
            format_capsule_id(CAPSULE),
            postgres=postgres,
            client=looking,
            layout=layout,
            topics=["capsules"],
            sinks=["one", "two", "three"],
            group=GROUP,
        )
    await postgres.close()
    assert found.deliveries == [("one", of_it), ("two", of_it)]
    assert found.row is not None
    assert found.row["status"] == "pausing"
    assert found.watermark == "123-4"
    assert [letter["id"] for letter in found.letters] == [in_text, number]
    assert other not in [letter["id"] for letter in found.letters]
    assert [entry.entry_id for entry in found.waiting] == [entry.decode() for entry in entries]
    assert [entry.consumer for entry in found.waiting] == ["somebody", ""]
    assert {entry.event for entry in found.waiting} == {"capsule.pause success"}
    assert {entry.source_id for entry in found.waiting} == {"123-5"}
