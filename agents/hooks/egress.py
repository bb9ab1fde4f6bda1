"""Which addresses a sink may dial: public ones only, unless the operator says otherwise.

Who configures a webhook's address may not be who runs the worker, and the worker stands inside:
next to databases, and to the metadata service that gives a cloud machine its credentials. Names
prove nothing, since whoever owns the name decides what it resolves to, and may decide otherwise a
moment later. So the address is judged where a socket is made for it, after the name was resolved
and before anything is sent: what is judged is what is dialled.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import AddrInfoType

__all__ = ["REFUSED", "connector", "is_public", "is_refusal"]

#: What a delivery that was not attempted for its address says.
REFUSED: Final = "the host's address is not public, and allow_private is off"

#: Public by their numbers, but inside all the same: they answer to the machine that asks.
_INSIDE: Final = (
    IPv4Network("168.63.129.16/32"),  # Azure's WireServer
    IPv4Network("192.0.0.0/24"),  # IETF's own; has Oracle's metadata service
)
_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE: Final = IPv6Network("::/96")


class _RefusedAddressError(OSError):
    def __init__(self) -> None:
        super().__init__(errno.EACCES, REFUSED)


def is_public(address: str) -> bool:
    """Whether an address, as it is dialled, leads out and not to something inside."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        inner = _carried(parsed)
        if inner is not None:
            return is_public(str(inner))
        if parsed.is_site_local:
            return False
    elif any(parsed in network for network in _INSIDE):
        return False
    return parsed.is_global and not (
        parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified
    )


def _carried(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address is another way to write, or a way to."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or address in _COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def connector(
    *, allow_private: bool, resolver: AbstractResolver | None = None
) -> aiohttp.TCPConnector:
    """Return a connection pool without a limit that dials public addresses only.

    Args:
        allow_private: Dial any address.
        resolver: Looks names up; aiohttp's own if None.
    """
    return aiohttp.TCPConnector(
        # How many deliveries run at once is the caller's to bound. A limit here would make
        # deliveries wait inside their own timeout, and fail without having been tried.
        limit=0,
        resolver=resolver,
        socket_factory=None if allow_private else _public_socket,
    )


def _public_socket(info: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise _RefusedAddressError
    return socket.socket(family, kind, protocol)


def is_refusal(error: BaseException) -> bool:
    """Whether a connection failed because of :func:`connector`, and not of the network."""
    # aiohttp tries a host's addresses in turn, and tells of the last, or of all in one text.
    return isinstance(error, aiohttp.ClientConnectorError) and REFUSED in str(error.os_error)
