"""A control plane with its hosts, simulated: what it writes to its rows and what hosts report.

A pure model: it touches no server and draws everything, ids included, from one seed. Each capsule
lives a legal life: it is created, pauses and resumes, and is destroyed; a new one takes its
place. Time is counted in ticks, about one per event; who plays the steps says how long one is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from typing import Final, NamedTuple
from uuid import UUID

from streams.events import Verb
from streams.simulation.payloads import Capsule, bad_payload, noise_payload, report_payload

__all__ = ["Kind", "NewSandbox", "RowWrite", "Simulation", "StatusChange", "Step"]

# The share of a user's requests after which the control plane writes the outcome to its row by
# itself before the host's event arrives, which then finds nothing left to change.
AHEAD: Final = 0.3
FAILURES: Final = {Verb.CREATE: 0.08, Verb.RESUME: 0.08, Verb.PAUSE: 0.04, Verb.DESTROY: 0.03}

_ASKED: Final = {
    Verb.CREATE: "starting",
    Verb.PAUSE: "pausing",
    Verb.RESUME: "resuming",
    Verb.DESTROY: "stopping",
}
_DONE: Final = {
    Verb.CREATE: "running",
    Verb.PAUSE: "paused",
    Verb.RESUME: "running",
    Verb.DESTROY: "stopped",
}


class _Act(NamedTuple):
    verb: Verb
    #: Done by the host on its own account (idle, end of its time): no row says it beforehand.
    autonomous: bool = False


_ACTS: Final[dict[str, dict[_Act, int]]] = {
    "running": {
        _Act(Verb.PAUSE): 5,
        _Act(Verb.PAUSE, autonomous=True): 2,
        _Act(Verb.DESTROY): 2,
        _Act(Verb.DESTROY, autonomous=True): 1,
    },
    "paused": {_Act(Verb.RESUME): 7, _Act(Verb.DESTROY): 3},
    "error": {_Act(Verb.DESTROY): 1},
}
_TEAMS: Final = 5
_HOSTS: Final = 4


@dataclass(frozen=True, slots=True)
class NewSandbox:
    """A row the control plane inserts, as `starting`, when a user asks for a capsule."""

    capsule: Capsule
    vcpus: int
    memory_mb: int
    timeout_sec: int
    disk_size_mb: int
    guest_ip: str

    @property
    def capsule_id(self) -> UUID:
        """Whose row it is."""
        return self.capsule.id


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A status the control plane writes; an empty `host_ip` leaves that column as it is."""

    capsule_id: UUID
    status: str
    host_ip: str = ""


RowWrite = NewSandbox | StatusChange


class Kind(StrEnum):
    """What a step puts on the stream."""

    NOTHING = "nothing"
    REPORT = "report"
    NOISE = "noise"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Step:
    """Row writes, and then at most one event."""

    rows: tuple[RowWrite, ...] = ()
    payload: bytes | None = None
    kind: Kind = Kind.NOTHING
    #: Of a report.
    capsule_id: UUID | None = None


#: What a life consists of: steps, and between them pauses in ticks.
_Moment = Step | float


class Simulation:
    """Steps without end.

    Arguments:
        seed: the same seed gives the same steps, but for what `clock` says.
        capsules: how many live at the same time.
        noise: share of the events that the reconciler has to skip by rule.
        bad: share of the events that cannot be read.
        clock: the time that events carry.
    """

    def __init__(
        self,
        seed: int,
        *,
        capsules: int,
        noise: float,
        bad: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a model, no secrets
        self._capsules = capsules
        self._noise = noise
        self._bad = bad
        self._clock = clock
        self._teams = [self._uuid() for _ in range(_TEAMS)]
        self._hosts = [(self._uuid(), f"10.20.0.{n + 10}") for n in range(_HOSTS)]
        self._living: list[Capsule] = []

    def steps(self) -> Iterator[Step]:
        """Yield step after step, to be played in this order."""
        lives = self._lives()
        while True:
            drawn = self._rng.random()
            if drawn < self._bad:
                yield Step((), bad_payload(self._rng, self._stranger(), self._clock()), Kind.BAD)
            elif drawn < self._bad + self._noise:
                about = self._rng.choice(self._living) if self._living else self._stranger()
                yield Step((), noise_payload(self._rng, about, self._clock()), Kind.NOISE)
            else:
                yield from self._up_to_report(lives)

    @staticmethod
    def _up_to_report(lives: Iterator[Step]) -> Iterator[Step]:
        for step in lives:
            yield step
            if step.kind is Kind.REPORT:
                return

    def _lives(self) -> Iterator[Step]:
        """Interleave the lives of all capsules; where one ends, the next begins."""
        turn = count()  # makes two of the same moment comparable
        due = [
            (self._rng.uniform(0, self._capsules), next(turn), self._life())
            for _ in range(self._capsules)
        ]
        heapq.heapify(due)
        while True:
            now, _, life = heapq.heappop(due)
            for moment in life:
                if isinstance(moment, Step):
                    yield moment
                else:
                    heapq.heappush(due, (now + moment, next(turn), life))
                    break
            else:
                heapq.heappush(due, (now, next(turn), self._life()))

    def _life(self) -> Generator[_Moment, None, None]:
        yield self._dwelling()
        capsule = self._new_capsule()
        self._living.append(capsule)
        status = yield from self._perform(capsule, _Act(Verb.CREATE), "")
        while status != "stopped":
            yield self._dwelling()
            acts = _ACTS[status]
            [act] = self._rng.choices(list(acts), list(acts.values()))
            status = yield from self._perform(capsule, act, status)
        self._living.remove(capsule)

    def _perform(self, capsule: Capsule, act: _Act, before: str) -> Generator[_Moment, None, str]:
        """Ask for one thing, have the host report it, and return the status it has led to."""
        if not act.autonomous:
            yield Step((self._request(capsule, act.verb),))
            yield self._working()
        if act.verb is Verb.RESUME:
            capsule.host_id, capsule.host_ip = self._rng.choice(self._hosts)
        failed = not act.autonomous and self._rng.random() < FAILURES[act.verb]
        after = self._outcome(act.verb, before, failed=failed)
        # What a host could not do, the control plane takes back itself: no event does.
        written = after == before or (not act.autonomous and self._rng.random() < AHEAD)
        payload = report_payload(
            self._rng, capsule, act.verb, self._clock(), failed=failed, autonomous=act.autonomous
        )
        rows = (self._status(capsule, after),) if written else ()
        yield Step(rows, payload, Kind.REPORT, capsule.id)
        return after

    @staticmethod
    def _outcome(verb: Verb, before: str, *, failed: bool) -> str:
        if not failed:
            return _DONE[verb]
        return "error" if verb in (Verb.CREATE, Verb.RESUME) else before

    def _request(self, capsule: Capsule, verb: Verb) -> RowWrite:
        if verb is not Verb.CREATE:
            return StatusChange(capsule.id, _ASKED[verb])
        return NewSandbox(
            capsule,
            vcpus=self._rng.choice((1, 2, 4)),
            memory_mb=self._rng.choice((512, 1024, 2048)),
            timeout_sec=self._rng.choice((300, 3600)),
            disk_size_mb=self._rng.choice((2048, 10_240)),
            guest_ip=f"172.16.{self._rng.randrange(256)}.{self._rng.randrange(2, 255)}",
        )

    @staticmethod
    def _status(capsule: Capsule, status: str) -> StatusChange:
        return StatusChange(capsule.id, status, capsule.host_ip if status == "running" else "")

    def _dwelling(self) -> float:
        """How long a capsule stays as it is: with all of them, about one event per tick."""
        return self._rng.uniform(0.3, 1.5) * self._capsules

    def _working(self) -> float:
        """How long a host takes."""
        return self._rng.uniform(2, 8)

    def _new_capsule(self) -> Capsule:
        host_id, host_ip = self._rng.choice(self._hosts)
        return Capsule(self._uuid(), self._rng.choice(self._teams), host_id, host_ip)

    def _stranger(self) -> Capsule:
        """Return a capsule that has no row."""
        return self._new_capsule()

    def _uuid(self) -> UUID:
        return UUID(int=self._rng.getrandbits(128), version=4)
