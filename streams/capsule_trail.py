"""What becomes of one capsule's entries: which are settled, tried again, and stored in Postgres."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import orjson
import psycopg2
import redis.asyncio

from config.settings import Settings
from streams.errors import DatabaseUnavailableError
from streams.events import EntryId
from streams.ids import excerpt, format_capsule_id
from streams.recorded_topics import DEAD_LETTERS, HOOKS_PREFIX
from streams.sinks.recorded_deliveries import RecordedDeliveries
from streams.trail import Found, Step, age_of
from streams.transport import StreamLayout, broker_errors
from streams.transport.bundles import place_of, places_in

__all__ = ["CapsuleTrail"]

#: Entries watched at the same time; older ones are watched no more.
_WATCHED_MAX: Final = 500
#: What ended within this time is said to have ended now.
_RECENT_S: Final = 5.0
_ROW: Final = """
    select w.ms, w.seq, extract(epoch from w.updated_at)::float8, s.status
    from (select %(id)s::uuid as id) as asked
    left join capsule_reconciler.watermarks w on w.capsule_id = asked.id
    left join sandboxes s on s.id = asked.id
"""


@dataclass(slots=True)
class _Watched:
    found: Found
    step: Step
    attempts: int = 0
    looks: int = 0
    #: Seen settled; said in the next round, when a dead letter would have been seen as well.
    is_settled: bool = False
    #: Settled when it was looked at first: nobody knows when.
    was_settled: bool = False


class CapsuleTrail:
    """Watches the entries of one capsule; nothing is written anywhere."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        layout: StreamLayout,
        settings: Settings,
        capsule_id: UUID,
    ) -> None:
        self._client = client
        self._layout = layout
        self._settings = settings
        self._capsule_id = capsule_id
        self._watched: list[_Watched] = []
        #: Events that have not reached the watermark, in the order of the source.
        self._unapplied: dict[EntryId, Step] = {}
        #: Source ids of those that have.
        self._told: set[str] = set()
        self._dead: set[str] = set()
        self._deliveries = RecordedDeliveries(client, layout, format_capsule_id(capsule_id))
        self.source_ids: set[str] = set()

    def watch(self, found: Found, step: Step) -> None:
        """Take up an entry of the capsule."""
        if found.stream.tp.topic == DEAD_LETTERS:
            self._dead.add(step.source_id)
        else:
            self._watched = [*self._watched, _Watched(found, step)][-_WATCHED_MAX:]
        if not step.source_id:
            return
        self.source_ids.add(step.source_id)
        if step.outcome in ("arrived", "routed") and step.source_id not in self._told:
            self._unapplied[EntryId.parse(step.source_id)] = step

    async def look(self) -> list[Step]:
        """Return what has become of them since the last look.

        Raises:
            TransportError: Redis is unreachable or refuses.
            DatabaseUnavailableError: so is Postgres.
        """
        steps: list[Step] = []
        open_now: list[_Watched] = []
        for watched in self._watched:
            if watched.is_settled:
                steps.append(self._settled(watched))
                continue
            watched.is_settled = await self._is_settled(watched.found)
            watched.was_settled = watched.is_settled and not watched.looks
            watched.looks += 1
            open_now.append(watched)
            if not watched.is_settled and (retry := await self._retry(watched)):
                steps.append(retry)
        self._watched = open_now
        steps += await self._deliveries.look(self.source_ids)
        if self._unapplied:
            steps += await asyncio.to_thread(self._applied)
        return steps

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be said of what was read so far."""
        return not any(watched.is_settled for watched in self._watched)

    def _settled(self, watched: _Watched) -> Step:
        step = watched.step
        outcome = "dead" if step.source_id in self._dead else "done"
        if step.outcome in ("skip", "bad"):
            outcome = {"skip": "skip", "bad": "dead"}[step.outcome]
        now_s = time.time()
        age_s = age_of(step.source_id, now_s)
        if watched.was_settled and (age_s is None or age_s > _RECENT_S):
            return replace(step, at_s=now_s, outcome=outcome, age_s=None, detail="some time ago")
        return replace(step, at_s=now_s, outcome=outcome, age_s=age_s, detail="")

    async def _is_settled(self, found: Found) -> bool:
        key, group = found.stream.key, self._settings.app_id
        with broker_errors("XPENDING"):
            if not await self._client.exists(key):
                return True
            groups: Any = await self._client.xinfo_groups(key)
            about = next((g for g in groups if g["name"] == group.encode()), None)
            if about is None:
                return False
            at = found.stream_id
            if EntryId.parse(about["last-delivered-id"]) < EntryId.parse(at):
                return False
            pending: Any = await self._client.xpending_range(key, group, min=at, max=at, count=1)
        return not pending or await self._is_noted(found)

    async def _is_noted(self, found: Found) -> bool:
        """Whether it is done with, and its entry still there for other messages in it."""
        if not (place := place_of(found.id)):
            return False
        with broker_errors("HGET"):
            places: Any = await self._client.hget(
                self._layout.parts_key(found.stream.tp).decode(), found.stream_id.decode()
            )
        return place in places_in(places or b"")

    async def _retry(self, watched: _Watched) -> Step | None:
        """Return the last failed attempt at a delivery, if there is a new one."""
        tp = watched.found.stream.tp
        if not tp.topic.startswith(HOOKS_PREFIX):
            return None
        with broker_errors("HGET"):
            raw = await self._client.hget(
                self._layout.name(f"retries:{tp.topic}:{tp.partition}").decode(),
                watched.found.id.decode(),
            )
        try:
            count, _, due_at_s, error = orjson.loads(raw or b"")
            count, due_in_s = int(count), float(due_at_s) - time.time()
        except (ValueError, TypeError):
            return None
        if count <= watched.attempts:
            return None
        watched.attempts = count
        now_s = time.time()
        detail = f"attempt {count}: {excerpt(error)}, the next in {max(due_in_s, 0):.1f} s"
        age_s = age_of(watched.step.source_id, now_s)
        return replace(watched.step, at_s=now_s, outcome="retry", age_s=age_s, detail=detail)

    def _applied(self) -> list[Step]:
        """Return the events that the watermark has reached, with the row as it is then."""
        try:
            connection = psycopg2.connect(
                self._settings.database_url,
                connect_timeout=max(int(self._settings.postgres_connect_timeout_s), 2),
                application_name="capsule-reconciler events",
                options=f"-c statement_timeout={self._settings.statement_timeout_ms}",
            )
            with closing(connection), connection.cursor() as cursor:
                cursor.execute(_ROW, {"id": str(self._capsule_id)})
                ms, seq, at_s, status = cursor.fetchone() or (None, None, None, None)
        except psycopg2.Error as exc:
            text = str(exc).strip() or type(exc).__name__
            raise DatabaseUnavailableError(text.partition("\n")[0]) from exc
        if ms is None:
            return []
        mark = EntryId(int(ms), int(seq))
        reached = sorted(entry_id for entry_id in self._unapplied if entry_id <= mark)
        self._told |= set(map(str, reached))
        row = "there is no row" if status is None else f"the row is {excerpt(status)}"
        return [
            Step(
                at_s,
                "postgres",
                str(entry_id),
                str(mark),
                format_capsule_id(self._capsule_id),
                self._unapplied.pop(entry_id).verb,
                "done",
                age_of(str(entry_id), at_s),
                f"watermark {mark}, {row}",
            )
            for entry_id in reached
        ]
