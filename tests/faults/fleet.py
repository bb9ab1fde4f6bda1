"""A fleet of real workers under random joins, stops, kills and freezes."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.event_log import EventLog, generate
from tests.faults.test_crashes import steps_done
from tests.oracle import Outcome, Row, replay
from tests.reconciliation import PREFIX, SOURCE, Ground, Receiver, assert_same
from tests.worker_process import ENDS_BY_SIGTERM, WorkerProcess

LEASE_S = 1.0
WORKERS_MAX = 8


def until(check: Callable[[], object], *, what: str, timeout_s: float = 60.0) -> None:
    """Wait until `check` is true."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


@contextmanager
def receiver_in_a_thread() -> Iterator[Receiver]:
    """A webhook receiver that does not need the test's own loop."""
    receiver = Receiver()
    up, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with receiver:
            up.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    up.wait(10)
    try:
        yield receiver
    finally:
        over.set()
        thread.join(10)


class _Traced(Row):
    """A row of the oracle that notes each status it is given."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "status":
            self.__dict__.setdefault("statuses", []).append(value)


def expected_changes(log: EventLog) -> dict[UUID, list[str]]:
    """The statuses that each row takes on, in order, if events are applied one at a time."""
    rows: dict[UUID, Row] = {
        capsule: _Traced(row.status, row.team_id, row.host_ip) for capsule, row in log.rows.items()
    }
    for row in rows.values():
        row.__dict__["statuses"] = []  # shared with the copy that the oracle works on
    replay(rows, log.entries)
    return {c: row.__dict__["statuses"] for c, row in rows.items() if row.__dict__["statuses"]}


def record_changes(ground: Ground) -> None:
    """Have Postgres itself note each change of a status, in the order of the commits."""
    with ground.cursor() as cursor:
        cursor.execute(
            """
            create table if not exists status_changes (n bigserial, id uuid, status text);
            truncate status_changes;
            create or replace function note() returns trigger language plpgsql as $$
            begin
                insert into status_changes (id, status) values (new.id, new.status);
                return new;
            end $$;
            create or replace trigger note after update on sandboxes for each row
            when (old.status is distinct from new.status) execute function note();
            """
        )


def recorded_changes(ground: Ground) -> dict[UUID, list[str]]:
    """What `record_changes` has seen, by capsule."""
    found: dict[UUID, list[str]] = defaultdict(list)
    with ground.cursor() as cursor:
        cursor.execute("select id, status from status_changes order by n")
        for capsule_id, status in cursor:
            found[UUID(capsule_id)].append(status)
    return dict(found)


def assert_nothing_left_behind(ground: Ground) -> None:
    """No entry pending, no worker, no partition held, no consumer name."""
    with ground.redis() as client:
        for key in [SOURCE.encode(), *client.scan_iter(f"{PREFIX}*:[0-9]*", _type="stream")]:
            for group in client.xinfo_groups(key):
                assert group["pending"] == 0, key
                assert client.xinfo_consumers(key, group["name"]) == [], key
        assert client.keys(f"{PREFIX}fleet:*") == []


class FleetMachine(RuleBasedStateMachine):
    """Workers come and go in any way while events flow; at the end the oracle is right.

    Arguments:
        events: how many flow in all.
        steps: in how many portions, one for each thing that happens.
    """

    def __init__(
        self, ground: Ground, directory: Path, receiver: Receiver, *, events: int, steps: int
    ) -> None:
        super().__init__()
        self.ground = ground
        self.directory = directory
        self.receiver = receiver
        self.events = events
        self.portion = events // steps
        self.workers: list[WorkerProcess] = []
        self.started = 0
        self.published = 0
        self.log = EventLog({}, [])

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.log = generate(seed, events=self.events, capsules=1_000)
        self.ground.clear()
        self.receiver.arrivals.clear()
        self.ground.load(self.log.rows)
        record_changes(self.ground)
        for _ in range(2):
            self._start()
        until(lambda: len(self.ground.shares()) == 2, what="two workers")

    def _start(self) -> None:
        self.started += 1
        settings = self.ground.settings(
            **self.receiver.settings(), CAPSULES_LEASE_S=str(LEASE_S), LOG_LEVEL="warning"
        )
        directory = self.directory / f"{self.published}-{self.started}"
        self.workers.append(WorkerProcess(directory, **settings))

    def _publish(self, entries: int) -> None:
        self.ground.publish(self.log.entries[self.published : self.published + entries])
        self.published = min(self.published + entries, self.events)

    def _in_the_middle_of_it(self, data: st.DataObject) -> WorkerProcess:
        """Publish a portion, let part of it be worked on, and pick a worker."""
        share = data.draw(st.floats(0, 1))
        moment = steps_done(self.ground) + int(share * self.portion)
        self._publish(self.portion)
        until(lambda: steps_done(self.ground) >= moment, what="some of it done")
        return self.workers[data.draw(st.integers(0, len(self.workers) - 1))]

    @precondition(lambda self: len(self.workers) < WORKERS_MAX)
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        self._in_the_middle_of_it(data)
        self._start()

    @precondition(lambda self: len(self.workers) > 1)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        worker = self._in_the_middle_of_it(data)
        self.workers.remove(worker)
        worker.signal(signal.SIGTERM)
        assert worker.process.wait(30) in ENDS_BY_SIGTERM, worker.tail()

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        worker = self._in_the_middle_of_it(data)
        self.workers.remove(worker)
        worker.kill()
        if not self.workers:
            self._start()

    @rule(data=st.data(), leases=st.sampled_from([0.5, 1.5, 3.0]))
    def freeze(self, data: st.DataObject, leases: float) -> None:
        worker = self._in_the_middle_of_it(data)
        worker.signal(signal.SIGSTOP)
        time.sleep(leases * LEASE_S)  # the fault itself
        worker.signal(signal.SIGCONT)

    def teardown(self) -> None:
        if not self.started:
            return
        try:
            self._publish(self.events - self.published)
            until(self.ground.drained, what="all done", timeout_s=120)
            # The dead are removed by the living.
            until(lambda: len(self.ground.shares()) == len(self.workers), what="no dead left")
            for worker in self.workers:
                worker.signal(signal.SIGTERM)
            for worker in self.workers:
                assert worker.process.wait(30) == 0, worker.tail()
            self.check(replay(self.log.rows, self.log.entries))
        finally:
            for worker in self.workers:
                if worker.process.poll() is None:
                    worker.kill()

    def check(self, expected: Outcome) -> None:
        assert_same(self.ground.outcome(self.receiver), expected)
        assert recorded_changes(self.ground) == expected_changes(self.log)
        assert_nothing_left_behind(self.ground)
