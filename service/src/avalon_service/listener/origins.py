"""Whence a call comes, for the cap on open orders from one address.

It is the address of the connection. What a proxy says of its clients is not believed: anybody can say it.
"""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar

_client: ContextVar[str] = ContextVar("client", default="")

_NETWORK_6 = 64
"""Bits of an IPv6 address that tell its holder: everyone has at least a network of this size."""


def set_client(address: str) -> None:
    """Note the address of the client whose request is handled in this context."""
    _client.set(address)


def origin() -> str:
    """Whence the present call comes; empty where that is not known."""
    address = _client.get()
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], _NETWORK_6), strict=False))
    except ValueError:
        return address
