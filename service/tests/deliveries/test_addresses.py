"""Where the service posts and where not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avalon_service.deliveries.addresses import AddressRefused, AddressRules

DEFAULT = AddressRules(allow_http=True, ports=(80, 443, 8080))
PRODUCTION = AddressRules(ports=(443,))
PRIVATE = AddressRules(allow_http=True, allow_private=True, ports=())

GOOD = [
    "http://receiver.example/",
    "https://receiver.example",
    "https://receiver.example:8080/a/b?c=d&e=%20",
    "https://RECEIVER.example./",
    "https://8.8.8.8/",
    "https://[2606:4700:4700::1111]/",
    "https://xn--nxasmq6b.example/",
    "https://1password.example/",
    "https://receiver.example/@x",
    "https://0x7f.example/",
]


@pytest.mark.parametrize("uri", GOOD)
def test_good_addresses(uri: str) -> None:
    DEFAULT.check_uri(uri)


BAD = {
    "": "printable ASCII",
    "receiver.example": "absolute",
    "/path": "absolute",
    "https://": "absolute",
    "https:///path": "absolute",
    "https:receiver.example": "absolute",
    "file:///etc/passwd": "absolute",
    "gopher://receiver.example/": "expected https or http",
    "ws://receiver.example/": "expected https or http",
    "https://receiver.example:22/": "port 22",
    "https://receiver.example:0/": "port 0",
    "https://receiver.example:99999/": "not a URI",
    "https://receiver.example:x/": "not a URI",
    "https://a@receiver.example/": "user and password",
    "https://@receiver.example/": "user and password",
    "https://a:b@receiver.example/": "user and password",
    "https://good.example@127.0.0.1/": "user and password",
    "https://good.example\\@127.0.0.1/": "printable ASCII",
    "https://receiver.example/ x": "printable ASCII",
    "https://receiver.example/\r\nx: y": "printable ASCII",
    "https://receiver.example/\x00": "printable ASCII",
    "https://\uff52eceiver.example/": "printable ASCII",
    "https://receiver.example/#": "fragment",
    "https://127.0.0.1/": "loopback",
    "https://127.255.255.254/": "loopback",
    "https://127.1/": "usual spelling",
    "https://0x7f000001/": "usual spelling",
    "https://0x7f.0.0.1/": "usual spelling",
    "https://017700000001/": "usual spelling",
    "https://2130706433/": "usual spelling",
    "https://127.0.0.01/": "usual spelling",
    "https://a.0x/": "usual spelling",
    "https://[::1]/": "loopback",
    "https://[::]/": "unspecified",
    "https://[fe80::1%25eth0]/": "zone",
    "https://[fe80::1]/": "link-local",
    "https://[fd00::1]/": "private",
    "https://[::ffff:8.8.8.8]/": "IPv4-mapped",
    "https://[::8.8.8.8]/": "IPv4-compatible",
    "https://[64:ff9b::808:808]/": "NAT64",
    "https://[64:ff9b:1::1]/": "NAT64",
    "https://[2002:7f00:1::]/": "6to4",
    "https://[2001:0:1::]/": "protocol assignments",
    "https://[2001:db8::1]/": "documentation",
    "https://[3fff::1]/": "documentation",
    "https://[ff02::1]/": "multicast",
    "https://[fec0::1]/": "site-local",
    "https://[4000::1]/": "not global unicast",
    "https://10.0.0.1/": "private",
    "https://172.31.255.255/": "private",
    "https://192.168.0.1/": "private",
    "https://100.64.0.1/": "shared",
    "https://169.254.169.254/": "link-local",
    "https://192.88.99.1/": "6to4 relay",
    "https://198.18.0.1/": "benchmarking",
    "https://192.0.2.1/": "documentation",
    "https://0.0.0.0/": "unspecified",
    "https://0.1.2.3/": "this network",
    "https://224.0.0.1/": "multicast",
    "https://255.255.255.255/": "reserved",
}


@pytest.mark.parametrize("uri", BAD)
def test_bad_addresses(uri: str) -> None:
    with pytest.raises(AddressRefused, match=BAD[uri]) as caught:
        DEFAULT.check_uri(uri)
    assert uri not in str(caught.value) or not uri


def test_production_speaks_https_alone() -> None:
    PRODUCTION.check_uri("https://receiver.example/")
    with pytest.raises(AddressRefused, match="expected https, got 'http'"):
        PRODUCTION.check_uri("http://receiver.example:443/")


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5/", "http://10.0.0.1/", "http://[::1]/", "http://[fd00::1]/"]
)
def test_private_addresses_can_be_allowed(uri: str) -> None:
    PRIVATE.check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://[::ffff:127.0.0.1]/",
        "http://224.0.0.1/",
    ],
)
def test_some_never_are(uri: str) -> None:
    with pytest.raises(AddressRefused):
        PRIVATE.check_uri(uri)


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("receiver.example", True),
        ("RECEIVER.EXAMPLE", True),
        ("receiver.example.", True),
        ("a.receiver.example", False),
        ("below.org", True),
        ("a.b.below.org", True),
        ("notbelow.org", False),
        ("receiver.example.evil.example", False),
    ],
)
def test_a_list_of_hosts(host: str, listed: bool) -> None:
    rules = AddressRules(ports=(), hosts=("receiver.example", ".below.org"))
    if listed:
        rules.check_uri(f"https://{host}/")
    else:
        with pytest.raises(AddressRefused, match="not one that this service posts to"):
            rules.check_uri(f"https://{host}/")


def test_a_listed_host_must_be_public_all_the_same() -> None:
    with pytest.raises(AddressRefused, match="loopback"):
        AddressRules(ports=(), hosts=("127.0.0.1",)).check_uri("https://127.0.0.1/")


@given(st.ip_addresses())
@example(ipaddress.ip_address("::ffff:7f00:1"))
def test_no_address_is_allowed_that_python_does_not_call_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    try:
        DEFAULT.check_address(address)
    except AddressRefused:
        return
    assert address.is_global
    kinds = (address.is_private, address.is_multicast, address.is_reserved, address.is_loopback)
    assert not any(kinds)
    assert getattr(address, "ipv4_mapped", None) is None
    assert getattr(address, "sixtofour", None) is None
    assert getattr(address, "teredo", None) is None


@given(st.text(max_size=60) | st.text(max_size=30).map(lambda text: f"https://{text}/"))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        url = DEFAULT.check_uri(text)
    except AddressRefused:
        return
    assert url.scheme in ("http", "https")
    assert url.host
    assert url.user is None
