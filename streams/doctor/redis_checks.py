"""Is this Redis one that loses nothing?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from streams.doctor.finding import Finding, fail, ok, warn
from streams.doctor.redis_facts import RedisFacts

__all__ = ["REDIS_CHECKS"]

_OLDEST: Final = (6, 2)
#: The first version of each line in which a script can no longer break out of the interpreter.
#: https://nvd.nist.gov/vuln/detail/CVE-2025-49844
_ESCAPE: Final = "CVE-2025-49844"
_ESCAPE_FIXED: Final[Mapping[str, Mapping[tuple[int, int], int]]] = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
#: XAUTOCLAIM may write past its buffer: https://nvd.nist.gov/vuln/detail/CVE-2022-31144
_CLAIM_OVERFLOW: Final = ("redis", (7, 0), 4)
_MEMORY_WARN: Final = 0.75
_MEMORY_FAIL: Final = 0.9
_NOT_TOLD: Final = "the server does not let this user read its configuration"


def _version(facts: RedisFacts) -> Finding:
    is_valkey = facts.info.get("server_name") == "valkey" or "valkey_version" in facts.info
    name = "valkey" if is_valkey else "redis"
    text = str(facts.info.get("valkey_version" if is_valkey else "redis_version", ""))
    numbers = tuple(int(n) for n in re.findall(r"\d+", text)[:3])
    seen = f"{name} {text or 'of no version'}"
    if len(numbers) < 3:
        return warn(seen, "it says no version: the reconciler needs Redis 6.2 or newer, or Valkey")
    line, patch = (numbers[0], numbers[1]), numbers[2]
    if line < _OLDEST:
        return fail(seen, "needs Redis 6.2 or newer, or Valkey: update it")
    bad_name, bad_line, mended = _CLAIM_OVERFLOW
    if (name, line) == (bad_name, bad_line) and patch < mended:
        return fail(seen, "this version's XAUTOCLAIM overflows (CVE-2022-31144): update it")
    fixed = _ESCAPE_FIXED[name]
    if patch < fixed.get(line, 0) or (line not in fixed and line < max(fixed)):
        return warn(seen, f"this version has {_ESCAPE}: update it to the newest of its line")
    return ok(seen)


def _primary(facts: RedisFacts) -> Finding:
    role = facts.info.get("role")
    if role != "master":
        primary = f"{facts.info.get('master_host')}:{facts.info.get('master_port')}"
        return fail(f"a replica of {primary}", "point REDIS_URL at the primary, or at Sentinels")
    return ok(f"a primary with {facts.info.get('connected_slaves', 0)} replicas")


def _eviction(facts: RedisFacts) -> Finding:
    policy = str(facts.info.get("maxmemory_policy", "noeviction"))
    advice = "CONFIG SET maxmemory-policy noeviction, and in its configuration file"
    if policy.startswith("allkeys"):
        return fail(f"{policy}: when memory is full, whole streams are thrown away", advice)
    if policy != "noeviction":
        return warn(f"{policy}: spares keys without expiry, such as ours", advice)
    return ok(policy)


def _memory(facts: RedisFacts) -> Finding:
    used, limit = int(facts.info.get("used_memory", 0)), int(facts.info.get("maxmemory", 0))
    of_what = "maxmemory"
    if not limit:
        limit, of_what = int(facts.info.get("total_system_memory", 0)), "the machine's memory"
    seen = f"{used / 2**20:,.0f} MiB used of {limit / 2**20:,.0f} MiB, {of_what}"
    advice = "give it more; when it is full, nothing is routed, and the producer's events are lost"
    if limit and used > _MEMORY_FAIL * limit:
        return fail(seen, advice)
    if limit and used > _MEMORY_WARN * limit:
        return warn(seen, advice)
    return ok(seen)


def _persistence(facts: RedisFacts) -> Finding:
    if facts.info.get("aof_last_write_status", "ok") != "ok":
        return fail("the append-only file cannot be written", "look for a full or broken disk")
    if facts.info.get("aof_enabled"):
        return ok("append-only file")
    advice = "CONFIG SET appendonly yes, and in its configuration file"
    if facts.info.get("rdb_last_bgsave_status", "ok") != "ok":
        return fail("the last snapshot failed, and there is no append-only file", advice)
    if facts.config is None:
        return warn(f"no append-only file; {_NOT_TOLD}", advice)
    if facts.config.get("save", ""):
        return warn("snapshots only: a restart forgets all since the last one", advice)
    return fail("off: a restart forgets every entry and what was acknowledged", advice)


def _fsync(facts: RedisFacts) -> Finding:
    if not facts.info.get("aof_enabled"):
        return ok("no append-only file: see persistence")
    if facts.config is None:
        return warn(_NOT_TOLD, "see to it that appendfsync is everysec or always")
    word = facts.config.get("appendfsync", "")
    if word == "no":
        advice = "CONFIG SET appendfsync everysec, and in its configuration file"
        return warn("appendfsync no: a crash of the machine may lose half a minute", advice)
    return ok(f"appendfsync {word}")


def _idle_clients(facts: RedisFacts) -> Finding:
    if facts.config is None:
        return warn(_NOT_TOLD, "see to it that timeout is 0")
    timeout_s = int(facts.config.get("timeout", 0))
    if timeout_s:
        advice = "CONFIG SET timeout 0; dead peers are noticed by tcp-keepalive"
        return warn(f"clients that are idle for {timeout_s} s are cut off", advice)
    return ok("idle clients are left alone")


def _rights(facts: RedisFacts) -> Finding:
    if facts.missing_rights is None:
        return warn(
            "it cannot be asked what this user may do",
            "Redis 7, and +acl|whoami +acl|dryrun for it; or compare with the list in"
            " streams/transport/servers.py",
        )
    if facts.missing_rights:
        lacking = ", ".join(facts.missing_rights)
        return fail(
            f"the user may not run {lacking}", "ACL SETUSER, see streams/transport/servers.py"
        )
    return ok("the user may do all that a worker does")


REDIS_CHECKS: Final[Mapping[str, Callable[[RedisFacts], Finding]]] = {
    "redis.version": _version,
    "redis.primary": _primary,
    "redis.eviction": _eviction,
    "redis.memory": _memory,
    "redis.persistence": _persistence,
    "redis.fsync": _fsync,
    "redis.idle-clients": _idle_clients,
    "redis.rights": _rights,
}
