"""Who reads: at most one worker of an app at a time, by a lease in Redis.

:class:`Ownership` is the seam: the reader asks it what this worker may read, and is told when
that changes. :class:`AppLease` gives all partitions of the app to one worker; the others stand
by and take over within the length of the lease when it dies, at once when it leaves.

A worker that was frozen past its lease may still have a read waiting in Redis, which would
take entries away from its successor. So the owner notes the connection it reads over, and a
successor has Redis close that connection before it reads anything itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import redis.asyncio
import structlog

from .errors import BrokerRefusedError, TransportError, broker_errors
from .layout import StreamLayout
from .lua import script

__all__ = ["AppLease", "Ownership"]

log = structlog.get_logger(__name__)

#: The part of a lease after which its holder stops using it: what is left covers a command
#: that was sent just before, and clocks that run at slightly different rates.
_USABLE_SHARE = 0.8
#: Renewals per lease.
_RENEWALS = 4


class Ownership(Protocol):
    """What this worker may read."""

    def is_held(self) -> bool:
        """Whether the partitions are this worker's at this moment."""

    async def acquire(self) -> None:
        """Wait until they are, for a new term."""

    async def register_reader(self, client_id: int) -> None:
        """Note the connection that this worker reads over, before it reads."""

    async def release(self) -> None:
        """Give them back."""


class AppLease:
    """One lease over all partitions of an app.

    Arguments:
        client: the connection pool that the lease is kept with.
        layout: names the keys.
        worker: name of this worker, for people.
        lease_s: how long a term lasts without renewal.
        on_lost: called when a held lease turns out to be lost.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        layout: StreamLayout,
        *,
        worker: str,
        lease_s: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._client = client
        self._worker = worker
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._token = secrets.token_hex(16)
        self._usable_until = 0.0
        self._lease_key = layout.name("lease")
        self._epoch_key = layout.name("lease:epoch")
        self._reader_key = layout.name("lease:reader")
        self._acquire = client.register_script(script("lease_acquire"))
        self._renew = client.register_script(script("lease_renew"))
        self._release = client.register_script(script("lease_release"))

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)

    def is_held(self) -> bool:
        """Whether the lease is safely ours, by this machine's monotonic clock."""
        return monotonic() < self._usable_until

    async def acquire(self) -> None:
        """Wait for the lease; then cut off whoever read under it before.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        said = ""
        while True:
            asked = monotonic()
            with broker_errors("lease_acquire"):
                term, other = await self._acquire(
                    keys=[self._lease_key, self._epoch_key, self._reader_key],
                    args=[self._token, self._worker, self._lease_ms],
                )
            if term:
                break
            holder = other.decode("utf-8", "replace")
            if holder != said:
                log.info("standing by", action="lease_waiting", worker=self._worker, holder=holder)
                said = holder
            await asyncio.sleep(self._lease_s / _RENEWALS)
        await self._cut_off(other.decode())
        self._usable_until = asked + self._lease_s * _USABLE_SHARE
        log.info("lease taken", action="lease_acquired", worker=self._worker, term=term)

    async def _cut_off(self, reader: str) -> None:
        run_id, _, client_id = reader.partition("/")
        if not client_id or run_id != await self._run_id():
            return  # nobody read before, or on a server that has restarted since
        try:
            with broker_errors("CLIENT KILL"):
                await self._client.client_kill_filter(_id=client_id)
        except BrokerRefusedError as exc:
            log.warning(
                "cannot close the last reader's connection", action="reader_not_cut", error=str(exc)
            )

    async def _run_id(self) -> str:
        with broker_errors("INFO"):
            return str((await self._client.info("server"))["run_id"])

    async def register_reader(self, client_id: int) -> None:
        """Note the reader's connection under the lease.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        await self._prolong(f"{await self._run_id()}/{client_id}")

    async def _prolong(self, reader: str = "") -> None:
        asked = monotonic()
        with broker_errors("lease_renew"):
            held = await self._renew(
                keys=[self._lease_key, self._reader_key],
                args=[self._token, self._lease_ms, reader],
            )
        if held:
            self._usable_until = asked + self._lease_s * _USABLE_SHARE
        else:
            self._lose()

    def _lose(self) -> None:
        if self._usable_until:
            self._usable_until = 0.0
            log.warning("lease lost", action="lease_lost", worker=self._worker)
            self._on_lost()

    async def keep(self) -> None:
        """Renew the lease for as long as this task runs; report its loss once."""
        while True:
            await asyncio.sleep(self._lease_s / _RENEWALS)
            if not self._usable_until:
                continue
            try:
                await self._prolong()
            except TransportError as exc:
                log.warning("lease not renewed", action="lease_not_renewed", error=str(exc))
            if not self.is_held():
                self._lose()

    async def release(self) -> None:
        """Give the lease back, if it is ours.

        Raises:
            TransportError: Redis is unreachable or refuses; the lease then runs out by itself.
        """
        if not self._usable_until:
            return
        self._usable_until = 0.0
        with broker_errors("lease_release"):
            await self._release(keys=[self._lease_key, self._reader_key], args=[self._token])
        log.info("lease given back", action="lease_released", worker=self._worker)
