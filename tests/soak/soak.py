"""The run itself: load, faults, healing, and the account."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from config.ephemeral import EphemeralServers
from config.migrate import migrate
from tests.event_log import EventLog, generate
from tests.faults.account import assert_accounted, settled
from tests.reconciliation import SOURCE, Ground
from tests.soak.crew import Crew
from tests.soak.faults import FAULTS, Field
from tests.soak.history import History
from tests.soak.publisher import Publisher
from tests.soak.sink import MoodySink

__all__ = ["Plan", "Report", "soak"]

WORKERS: Final = 3
LEASE_S: Final = 2.0
LINE_EVERY_S: Final = 10.0
DRAIN_WITHIN_S: Final = 180.0
#: Until the producer's stream is as long as it gets, and the workers have what they need.
CALM_S: Final = 15.0
#: What a worker's memory may have grown by between the second minute and the last.
RSS_GROWTH_MAX: Final = 0.10
#: What Redis may have more at the end than in the calm before the faults.
REDIS_GROWTH_MAX_BYTES: Final = 8 * 2**20


@dataclass(frozen=True)
class Plan:
    """What to do: for how long, at which rate, with a fault how often, drawn from which seed."""

    duration_s: float
    rate: int
    fault_every_s: float
    seed: int


@dataclass
class Report:
    """What was seen; without complaints, all is well."""

    plan: Plan
    published: int = 0
    published_per_s: float = 0.0
    answers_lost: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    deliveries: int = 0
    deliveries_repeated: int = 0
    drain_s: float = 0.0
    takeovers_s: list[float] = field(default_factory=list)
    rss_second_minute_mib: float | None = None
    rss_last_minute_mib: float | None = None
    redis_calm_mib: float = 0.0
    redis_end_mib: float = 0.0
    complaints: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def soak(plan: Plan, directory: Path, say: Callable[[str], None]) -> Report:
    """Run as planned on servers in `directory`; `say` is given a line now and then."""
    report = Report(plan)
    events = round(plan.rate * (plan.duration_s + CALM_S) * 1.05) + 1_000
    say(f"seed {plan.seed}: making {events} events ...")
    log = generate(plan.seed, events=events, capsules=max(events // 50, 1_000))
    with EphemeralServers(directory) as servers, MoodySink().in_a_thread() as sink:
        migrate(servers.database_url, dev=True)
        ground = Ground(servers.redis_url, servers.database_url)
        ground.load(log.rows)
        history = History(directory / "history.jsonl")
        history.note("plan", **asdict(plan))
        settings = ground.settings(**sink.settings(), CAPSULES_LEASE_S=str(LEASE_S))
        crew = Crew(ground, directory, history, settings)
        try:
            _Run(plan, report, log, crew, history, say).run(servers, ground, sink)
        finally:
            crew.kill_all()
    return report


class _Run:
    def __init__(
        self,
        plan: Plan,
        report: Report,
        log: EventLog,
        crew: Crew,
        history: History,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._report = report
        self._log = log
        self._crew = crew
        self._history = history
        self._say = say
        self._began_s = 0.0
        self._said_s = 0.0
        self._last_fault = "none yet"

    def run(self, servers: EphemeralServers, ground: Ground, sink: MoodySink) -> None:
        for _ in range(WORKERS):
            self._crew.start()
        _until(lambda: len(ground.shares()) == WORKERS, within_s=60)
        publisher = Publisher(
            ground.redis_url, (payload for _, payload in self._log.entries), rate=self._plan.rate
        )
        rng = random.Random(self._plan.seed)
        with publisher.running():
            self._began_s = time.monotonic()
            self._tick(CALM_S, publisher, sink, ground)
            self._report.redis_calm_mib = _redis_mib(ground)
            self._break_things(Field(rng, servers, ground, self._crew, sink, LEASE_S), publisher)
        self._report.published = len(publisher.published)
        self._report.published_per_s = round(
            len(publisher.published) / (time.monotonic() - self._began_s), 1
        )
        self._report.answers_lost = publisher.answers_lost
        self._drain(ground)
        self._report.redis_end_mib = _redis_mib(ground)
        self._crew.end()
        self._settle_up(ground, publisher, sink)

    def _break_things(self, field: Field, publisher: Publisher) -> None:
        faults: Counter[str] = Counter()
        over_s = self._began_s + CALM_S + self._plan.duration_s
        deck: list[Callable[[Field], str]] = []
        while time.monotonic() < over_s:
            due_s = time.monotonic() + self._plan.fault_every_s
            # All of them in a random order, then again: a short run, too, has most of them.
            deck = deck or field.rng.sample(FAULTS, len(FAULTS))
            fault = deck.pop()
            self._history.note("fault_begins", fault=fault.__name__)
            detail = fault(field)
            self._history.note("fault_ends", fault=fault.__name__, detail=detail)
            faults[fault.__name__] += 1
            self._last_fault = f"{fault.__name__} {detail}"
            self._tick(due_s - time.monotonic(), publisher, field.sink, field.ground)
        self._report.faults = dict(sorted(faults.items()))

    def _tick(self, seconds: float, publisher: Publisher, sink: MoodySink, ground: Ground) -> None:
        """Let it run for a while, and say now and then how it is."""
        until_s = time.monotonic() + seconds
        while True:
            self._crew.check_alive()
            self._crew.sample()
            if publisher.error is not None:
                raise publisher.error
            now_s = time.monotonic()
            if now_s - self._said_s >= LINE_EVERY_S:
                self._said_s = now_s
                self._say(
                    f"{now_s - self._began_s:5.0f} s  published {len(publisher.published):7d}"
                    f"  delivered {len(sink.arrivals):7d}  behind {_behind(ground):>6}"
                    f"  rss {self._crew.rss[-1][1] / 2**20:4.0f} MiB"
                    f"  redis {_redis_mib(ground, purge=False):5.1f} MiB  last: {self._last_fault}"
                )
            if now_s >= until_s:
                return
            time.sleep(max(min(1.0, until_s - now_s), 0))

    def _drain(self, ground: Ground) -> None:
        self._say("healed; draining ...")
        began_s = time.monotonic()
        try:
            _until(lambda: settled(ground), within_s=DRAIN_WITHIN_S)
        except TimeoutError:
            self._report.complaints.append(f"not drained within {DRAIN_WITHIN_S:g} s")
        self._report.drain_s = round(time.monotonic() - began_s, 1)

    def _settle_up(self, ground: Ground, publisher: Publisher, sink: MoodySink) -> None:
        report = self._report
        self._say("the account ...")
        log = EventLog(self._log.rows, publisher.published)
        report.deliveries = len(sink.arrivals)
        report.deliveries_repeated = len(sink.arrivals) - len(
            {delivery.delivery_id for delivery in sink.arrivals}
        )
        report.takeovers_s = sorted(self._crew.takeovers_s)
        report.complaints += self._crew.complaints
        try:
            report.ends = dict(assert_accounted(ground, log, sink))
        except AssertionError as error:
            report.complaints += str(error).splitlines()
        self._check_memory()
        for complaint in report.complaints:
            self._history.note("complaint", text=complaint)
        if report.complaints:
            for entry_id, payload in publisher.published:
                self._history.note("entry", id=entry_id, payload=payload)

    def _check_memory(self) -> None:
        report, rss = self._report, self._crew.rss
        start_s, end_s = rss[0][0], rss[-1][0]
        if end_s - start_s >= 180:
            second = _mean_mib(rss, start_s + 60, start_s + 120)
            last = _mean_mib(rss, end_s - 60, end_s)
            report.rss_second_minute_mib, report.rss_last_minute_mib = second, last
            if last > second * (1 + RSS_GROWTH_MAX):
                report.complaints.append(f"rss grew from {second} to {last} MiB")
        grown = report.redis_end_mib - report.redis_calm_mib
        if grown * 2**20 > REDIS_GROWTH_MAX_BYTES:
            report.complaints.append(f"Redis has {grown:.1f} MiB more than in the calm")


def _mean_mib(samples: list[tuple[float, int]], from_s: float, to_s: float) -> float:
    return round(
        statistics.mean(size for at_s, size in samples if from_s <= at_s <= to_s) / 2**20, 1
    )


def _redis_mib(ground: Ground, *, purge: bool = True) -> float:
    """Used memory, in MiB; not a number while Redis is away."""
    with ground.redis() as client:
        try:
            if purge:
                client.memory_purge()
            used: int = client.info("memory")["used_memory"]
        except redis.RedisError:
            return float("nan")
    return round(used / 2**20, 1)


def _behind(ground: Ground) -> str:
    """How many entries the producer's stream has that nobody has read."""
    with ground.redis() as client:
        try:
            (group,) = client.xinfo_groups(SOURCE)
        except (redis.RedisError, ValueError):
            return "?"
    return "?" if group["lag"] is None else str(group["lag"])


def _until(check: Callable[[], object], *, within_s: float) -> None:
    """Wait until `check` is true; TimeoutError if it is not in time."""
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.25)
