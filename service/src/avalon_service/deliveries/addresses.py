"""Where the service posts, and where it does not: requesters choose the addresses, and must not reach what only the
service can (server-side request forgery).

What a URI says is checked when the order is submitted, and again before each post, by the same parser that the HTTP
client uses, so that no two readings of one text can differ:

1. Printable ASCII, absolute, with a host, without user, password or fragment.
2. https; http only where the profile allows it.
3. A port that is allowed.
4. A host on the allow-list, where there is one.
5. A host that is an address, in whatever spelling, is an address that is allowed.

A name is resolved at each post, once; *every* address that comes back must be allowed, and the connection goes to one of
these very addresses, so that a name cannot change its meaning between the check and the connection. Redirects are not
followed.

An address is allowed if it is global unicast and not one of the ranges that lead somewhere else (6to4, NAT64, Teredo,
IPv4 within IPv6, documentation, benchmarking). Where private addresses are allowed, loopback and private ranges are,
too; link-local ones, where clouds keep their credentials, never are.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_HOST_CHARS = 253
"""Of a DNS name."""

_PRINTABLE = re.compile(r"[!-~]+\Z")
_NUMERIC_LABEL = re.compile(r"([0-9]+|0[xX][0-9a-fA-F]*)\Z")

_UNFIT_4 = {
    "shared": ipaddress.IPv4Network("100.64.0.0/10"),
    "protocol assignments": ipaddress.IPv4Network("192.0.0.0/24"),
    "6to4 relay": ipaddress.IPv4Network("192.88.99.0/24"),
    "benchmarking": ipaddress.IPv4Network("198.18.0.0/15"),
    "documentation": ipaddress.IPv4Network("192.0.2.0/24"),
    "documentation 2": ipaddress.IPv4Network("198.51.100.0/24"),
    "documentation 3": ipaddress.IPv4Network("203.0.113.0/24"),
    "this network": ipaddress.IPv4Network("0.0.0.0/8"),
    "reserved": ipaddress.IPv4Network("240.0.0.0/4"),
}
_UNFIT_6 = {
    "IPv4-mapped": ipaddress.IPv6Network("::ffff:0:0/96"),
    "IPv4-compatible": ipaddress.IPv6Network("::/96"),
    "IPv4-translated": ipaddress.IPv6Network("::ffff:0:0:0/96"),
    "NAT64": ipaddress.IPv6Network("64:ff9b::/96"),
    "local NAT64": ipaddress.IPv6Network("64:ff9b:1::/48"),
    "protocol assignments": ipaddress.IPv6Network("2001::/23"),
    "documentation": ipaddress.IPv6Network("2001:db8::/32"),
    "documentation 2": ipaddress.IPv6Network("3fff::/20"),
    "6to4": ipaddress.IPv6Network("2002::/16"),
    "site-local": ipaddress.IPv6Network("fec0::/10"),
}
_GLOBAL_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_PRIVATE_4 = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_PRIVATE_6 = (ipaddress.IPv6Network("fc00::/7"),)


class AddressRefused(Exception):
    """The service does not post there; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """What an operator allows."""

    allow_http: bool = False
    allow_private: bool = False
    """Loopback and private addresses."""

    ports: Collection[int] = (443,)
    """Empty: any."""

    hosts: Collection[str] = ()
    """Names: ``receiver.example``, or with all below it ``.example``. Empty: any."""

    def check_uri(self, uri: str) -> URL:
        """Check what a URI says. Steps 1 to 5 of the module; nothing is resolved.

        Raises:
            AddressRefused
        """
        url = _parse(uri)
        schemes = ("https", "http") if self.allow_http else ("https",)
        if url.scheme not in schemes:
            raise AddressRefused(f"expected {' or '.join(schemes)}, got {url.scheme[:16]!r}")
        if self.ports and url.port not in self.ports:
            allowed = ", ".join(map(str, self.ports))
            raise AddressRefused(f"port {url.port} is not allowed; allowed are {allowed}")
        host = (url.host or "").rstrip(".").lower()
        if self.hosts and not any(_is_listed(host, listed.lower()) for listed in self.hosts):
            raise AddressRefused("the host is not one that this service posts to")
        literal = _literal(host)
        if literal is not None:
            self.check_address(literal)
        return url

    def check_address(self, address: Address) -> None:
        """Check an address that would be connected to.

        Raises:
            AddressRefused: naming the kind of address.
        """
        kind = _kind(address)
        if kind is None or (self.allow_private and kind in ("loopback", "private")):
            return
        raise AddressRefused(f"the address is not a public one: {kind}")


def _parse(uri: str) -> URL:
    if not _PRINTABLE.match(uri) or "\\" in uri:
        raise AddressRefused("expected a URI in printable ASCII")
    try:
        url = URL(uri)
        port = url.port
    except ValueError:
        raise AddressRefused("not a URI") from None
    if not url.absolute or not url.scheme or not url.host or len(url.host) > MAX_HOST_CHARS:
        raise AddressRefused("expected an absolute URI with a host")
    if "@" in uri.split("://", 1)[-1].split("/", 1)[0] or url.raw_user is not None:
        raise AddressRefused("user and password are not allowed in it")
    if "#" in uri:
        raise AddressRefused("a fragment is not allowed in it")
    if port == 0:
        raise AddressRefused("port 0 is no port")
    return url


def _is_listed(host: str, listed: str) -> bool:
    return host.endswith(listed) or host == listed[1:] if listed.startswith(".") else host == listed


def _literal(host: str) -> Address | None:
    """The address that a host is, or None for a name."""
    if "%" in host:
        raise AddressRefused("a zone is not allowed in an address")
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        # Resolvers take "127.1", "0x7f000001" and "2130706433" for addresses; nobody needs to write them so.
        if _NUMERIC_LABEL.match(host.rpartition(".")[2]):
            raise AddressRefused("expected a name, or an address in its usual spelling") from None
        return None


def _kind(address: Address) -> str | None:
    """Why an address is none to connect to, or None where it is one."""
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    if isinstance(address, ipaddress.IPv4Address):
        named = next((name for name, network in _UNFIT_4.items() if address in network), None)
        private = any(address in network for network in _PRIVATE_4)
    else:
        named = next((name for name, network in _UNFIT_6.items() if address in network), None)
        private = any(address in network for network in _PRIVATE_6)
        if named is None and not private and address not in _GLOBAL_UNICAST_6:
            named = "not global unicast"
    if named is not None:
        return named.rstrip(" 23")
    if private:
        return "private"
    return None if address.is_global else "special purpose"
