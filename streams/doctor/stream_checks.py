"""Is the producer's stream read in time, by us alone, and are ours as they were recorded?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from config.settings import Settings
from streams.doctor.finding import Finding, fail, ok, warn
from streams.doctor.redis_facts import RedisFacts
from streams.ids import excerpt
from streams.recorded_topics import CAPSULES, HOOKS_PREFIX
from streams.short import short_age
from streams.transport.positions import CONSUMER

__all__ = ["STREAM_CHECKS"]

#: By its contract the producer keeps about so many entries.
_KEPT: Final = 10_000
_HEADROOM_WARN_S: Final = 60.0
#: What taking over takes beyond the lease.
_TAKEOVER_S: Final = 2.0
_FILLED_FAIL: Final = 0.8


def _source(facts: RedisFacts, settings: Settings) -> Finding:
    kind = facts.source.kind
    if kind == "none":
        return warn(
            f"there is no {settings.source_stream}",
            "nobody has published yet; or CAPSULES_SOURCE_STREAM or the database number is wrong",
        )
    if kind != "stream":
        return fail(
            f"{settings.source_stream} is a {kind}",
            "set CAPSULES_SOURCE_STREAM to the producer's stream",
        )
    return ok(f"{facts.source.length:,} entries, {facts.source.per_s:,.0f} new in a second")


def _group(facts: RedisFacts, settings: Settings) -> Finding:
    if facts.source.kind not in ("none", "stream"):
        return fail("there can be none: it is no stream", "see source.stream")
    group = facts.source.group
    if group is not None:
        return ok(f"read up to {group['last-delivered-id'].decode()}")
    start = settings.source_start_id
    if start == "$" and facts.source.length:
        return warn(
            f"none; it will be made at $: the {facts.source.length:,} entries that are there"
            " would never be read",
            "start a worker once before the producer, or with CAPSULES_SOURCE_START_ID=0",
        )
    return warn(f"none; the first worker will make it at {start}", "start a worker")


def _trimming(facts: RedisFacts, settings: Settings) -> Finding:
    source = facts.source
    unread = facts.backlogs[settings.source_stream].unread if source.kind == "stream" else 0
    trims = source.added is not None and source.added > source.length
    kept = source.length if trims and source.length else max(_KEPT, source.length)
    advice = "more workers or faster servers; a producer that keeps more (MAXLEN)"
    seen = f"{unread:,} unread of {kept:,} that the producer keeps"
    if unread > _FILLED_FAIL * kept:
        return fail(seen, f"entries are about to be trimmed unread: {advice}")
    if not source.per_s:
        return ok(seen)
    left_s = (kept - unread) / source.per_s
    seen += f"; at {source.per_s:,.0f}/s, reading may stand still for {short_age(left_s)}"
    if left_s < settings.lease_s + _TAKEOVER_S:
        return fail(seen, f"less than it takes to replace a dead worker: {advice}")
    return warn(seen, advice) if left_s < _HEADROOM_WARN_S else ok(seen)


def _strangers(facts: RedisFacts, settings: Settings) -> Finding:
    others = [c for c in facts.source.consumers if c["name"] != CONSUMER]
    at_work = [c for c in others if c["idle"] < settings.foreign_idle_s * 1000]
    if at_work:
        names = ", ".join(excerpt(c["name"]) for c in at_work)
        return fail(
            f"others read in our group: {names}",
            "stop them: what they are given is not reconciled, or not in order",
        )
    holding = [c for c in others if c["pending"]]
    if holding:
        names = ", ".join(f"{excerpt(c['name'])} {c['pending']:,}" for c in holding)
        advice = "nothing while a worker runs: it takes them over"
        return warn(f"names that are gone hold entries: {names}", advice)
    return ok(f"{len(others)} idle names" if others else "nobody but our workers")


def _partitions(facts: RedisFacts, settings: Settings) -> Finding:
    configured = [CAPSULES, *(f"{HOOKS_PREFIX}{sink.name}" for sink in settings.sinks)]
    wrong = [
        f"{name} {facts.recorded[name]}"
        for name in configured
        if facts.recorded.get(name, settings.partitions) != settings.partitions
    ]
    if wrong:
        return fail(
            f"recorded in Redis: {', '.join(wrong)}; in the settings: {settings.partitions}",
            "set CAPSULES_PARTITIONS to what is recorded, or see `repartition`",
        )
    return ok(f"{settings.partitions} by topic" + ("" if facts.recorded else ", none recorded yet"))


def _orphans(facts: RedisFacts, settings: Settings) -> Finding:
    configured = {f"{HOOKS_PREFIX}{sink.name}" for sink in settings.sinks}
    left = {
        name: facts.backlogs[name].entries
        for name in facts.topics.hooks
        if name not in configured and facts.backlogs[name].entries
    }
    if left:
        said = ", ".join(f"{name} {n:,}" for name, n in left.items())
        return warn(
            f"deliveries to sinks that are not in these settings: {said}",
            "give this command the workers' settings; or see `sinks retire`, if the sink is gone",
        )
    return ok("no deliveries without a sink")


def _workers(facts: RedisFacts, settings: Settings) -> Finding:
    if not facts.workers:
        return warn("no worker tells that it is there", "start one, or see `workers`")
    return ok(f"{len(facts.workers)} workers")


STREAM_CHECKS: Final[Mapping[str, Callable[[RedisFacts, Settings], Finding]]] = {
    "source.stream": _source,
    "source.group": _group,
    "source.trimming": _trimming,
    "source.strangers": _strangers,
    "topics.partitions": _partitions,
    "topics.orphans": _orphans,
    "fleet.workers": _workers,
}
