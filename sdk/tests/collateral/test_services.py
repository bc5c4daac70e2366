"""Services that are broken, slow, hostile, or not the service that was meant."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from avalon_core.attestation.snp import Product
from avalon_sdk.collateral import (
    BadCollateral,
    CollateralSettings,
    NoSuchCollateral,
    VendorBusy,
    VendorUnreachable,
)
from avalon_sdk.deadline import RetryPolicy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TCB = "/sgx/certification/v4/tcb"


def saying(status: int = 200, body: bytes = b"", **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=given)

    return answer


def at_last(vendor: Any, failing: Handler, times: int) -> Handler:
    """Fail so often, then answer properly."""
    left = [times]

    async def answer(request: web.Request) -> web.StreamResponse:
        left[0] -= 1
        return await failing(request) if left[0] >= 0 else vendor.proper(request)

    return answer


def changed(vendor: Any, change: Callable[[web.Response], None]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = vendor.proper(request)
        change(response)
        return response

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    """Promises a thousand bytes and hangs up after ten."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"tcbInfo"')
    assert request.transport is not None
    request.transport.close()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b" " * 65536)
    return response


async def slow(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(1.5)
    return web.Response(status=500)


async def problem_of(make_client: Any, evidence: Any, **more: Any) -> Exception:
    timeout = more.pop("timeout", 5.0)
    async with make_client(**more) as client:
        fetched = await client.prefetch(evidence, timeout=timeout)
    (problem,) = fetched.problems
    assert fetched.collateral.dcap == ()
    return problem


@pytest.mark.parametrize("status", [404, 410, 461, 462])
async def test_none_is_none_and_is_not_asked_again_for_a_while(
    status: int, vendor: Any, make_client: Any, samples: Any, clock: Any
) -> None:
    vendor.misbehave[TCB] = saying(status)
    for seconds in (0, 299):
        clock.at += seconds
        problem = await problem_of(make_client, samples.sgx())
        assert isinstance(problem, NoSuchCollateral)
    assert vendor.count("tcb") == 1
    clock.at += 2
    vendor.misbehave.clear()
    async with make_client() as client:
        assert (await client.prefetch(samples.sgx())).problems == ()


@pytest.mark.parametrize(
    "failing",
    [saying(500), saying(502), saying(429), saying(503), saying(429, Retry_After="0"), cut],
    ids=["500", "502", "429", "503", "429 with Retry-After", "cut"],
)
async def test_what_may_pass_is_tried_again(
    failing: Handler, vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[TCB] = at_last(vendor, failing, 2)
    async with make_client() as client:
        fetched = await client.prefetch(samples.sgx())
    assert fetched.problems == ()
    assert vendor.count("tcb") == 3


@pytest.mark.parametrize("failing", [saying(500), saying(504), cut], ids=["500", "504", "cut"])
async def test_but_not_for_ever(failing: Handler, vendor: Any, make_client: Any, samples: Any) -> None:
    vendor.misbehave[TCB] = failing
    problem = await problem_of(make_client, samples.sgx())
    assert isinstance(problem, VendorUnreachable)
    assert vendor.count("tcb") == 3


async def test_retry_after_is_honoured_as_far_as_the_deadline_goes(
    vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[TCB] = saying(429, Retry_After="1")
    started = asyncio.get_running_loop().time()
    problem = await problem_of(make_client, samples.sgx(), timeout=1.5)
    assert isinstance(problem, VendorBusy)
    assert problem.retry_after == 1
    assert "asks to wait 1 s" in str(problem)
    assert asyncio.get_running_loop().time() - started < 1.5
    assert vendor.count("tcb") == 2


@pytest.mark.parametrize("when", ["3600", "Fri, 31 Dec 2199 23:59:59 GMT", "99999999"])
async def test_patience_beyond_the_deadline_is_not_had(
    when: str, vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[TCB] = saying(429, Retry_After=when)
    problem = await problem_of(make_client, samples.sgx())
    assert isinstance(problem, VendorBusy)
    assert problem.retry_after == 3600
    assert vendor.count("tcb") == 1


@pytest.mark.parametrize("when", ["soon", "-1", "Fri, 31 Dec 1999 23:59:59"])
async def test_an_odd_retry_after_is_as_if_it_were_not_there(
    when: str, vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[TCB] = at_last(vendor, saying(503, Retry_After=when), 1)
    async with make_client() as client:
        assert (await client.prefetch(samples.sgx())).problems == ()


async def test_a_slow_service_is_given_up_at_the_deadline(
    vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[TCB] = slow
    started = asyncio.get_running_loop().time()
    problem = await problem_of(make_client, samples.sgx(), timeout=0.4)
    assert isinstance(problem, VendorUnreachable)
    assert "nothing whole within" in str(problem)
    assert asyncio.get_running_loop().time() - started < 1.4


async def test_nobody_there_is_told_at_once(make_client: Any, samples: Any, unused_tcp_port: int) -> None:
    settings = CollateralSettings(intel_url=f"http://127.0.0.1:{unused_tcp_port}")
    problem = await problem_of(make_client, samples.sgx(), settings=settings)
    assert isinstance(problem, VendorUnreachable)
    assert "connection refused" in str(problem)
    assert "--pccs" in str(problem)


async def test_an_endless_answer_is_cut(vendor: Any, make_client: Any, samples: Any) -> None:
    vendor.misbehave[TCB] = endless
    problem = await problem_of(make_client, samples.sgx())
    assert isinstance(problem, BadCollateral)
    assert "more than" in str(problem)


async def test_redirects_within_the_service_are_followed(vendor: Any, make_client: Any, samples: Any) -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"/moved?{request.query_string}"})

    async def moved(request: web.Request) -> web.StreamResponse:
        return vendor.intel("sgx", "tcb", request)

    vendor.misbehave |= {TCB: redirect, "/moved": moved}
    async with make_client() as client:
        assert (await client.prefetch(samples.sgx())).problems == ()


async def test_redirects_elsewhere_are_not(
    vendor: Any, elsewhere: Any, make_client: Any, samples: Any
) -> None:
    for location in (
        f"{elsewhere.url}{TCB}?fmspc=53494d000000",
        "https://127.0.0.1/",
        "//other/",
        "http://[",
        "",
    ):
        vendor.misbehave[TCB] = saying(307, Location=location)
        problem = await problem_of(make_client, samples.sgx())
        assert isinstance(problem, BadCollateral)
        assert "redirects elsewhere" in str(problem)
    assert elsewhere.asked == []


async def test_redirects_in_a_circle_end(vendor: Any, make_client: Any, samples: Any) -> None:
    vendor.misbehave[TCB] = saying(302, Location=TCB)
    problem = await problem_of(make_client, samples.sgx())
    assert "more than 3 times" in str(problem)
    assert vendor.count("tcb") == 4


def _drop(name: str) -> Callable[[web.Response], None]:
    return lambda response: response.headers.pop(name, None) and None


def _header(name: str, value: str) -> Callable[[web.Response], None]:
    return lambda response: response.headers.update({name: value})


def _body(change: Callable[[bytes], bytes]) -> Callable[[web.Response], None]:
    def apply(response: web.Response) -> None:
        assert isinstance(response.body, bytes)
        response.body = change(response.body)

    return apply


CHAIN = "TCB-Info-Issuer-Chain"
WRONG_TCB: dict[str, tuple[Callable[[web.Response], None], str]] = {
    "no issuer chain": (_drop(CHAIN), "no issuer chain came"),
    "an issuer chain that is none": (_header(CHAIN, "garbage"), "no certificate"),
    "an issuer chain of garbage in PEM": (
        _header(CHAIN, "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A"),
        "no certificate",
    ),
    "an issuer chain of no base64": (
        _header(CHAIN, "-----BEGIN%20CERTIFICATE-----%0A!!!%0A-----END%20CERTIFICATE-----%0A"),
        "base64",
    ),
    "an issuer chain that is empty": (_header(CHAIN, ""), "is empty"),
    "no JSON": (_body(lambda body: b"<html>Sign in</html>"), "not the JSON"),
    "nothing": (_body(lambda body: b""), "not the JSON"),
    "JSON that is cut": (_body(lambda body: body[:-20]), "not the JSON"),
    "another member": (_body(lambda body: body.replace(b'"tcbInfo"', b'"info"')), "not the JSON"),
    "bytes that are no text": (_body(lambda body: body.replace(b"SGX", b"\xff\xff\xff")), "JSON|UTF-8"),
    "statements of TDX": (_body(lambda body: body.replace(b'"id":"SGX"', b'"id":"TDX"', 1)), "expected SGX"),
    "statements of another platform": (
        _body(lambda body: body.replace(b"53494D000000", b"00906ED50000")),
        "FMSPC '00906ED50000'",
    ),
    "a signature of another size": (
        _body(lambda body: body[: body.rindex(b'"signature"')] + b'"signature":"00"}'),
        "expected 64 bytes",
    ),
    "a signature that is no hex": (
        _body(lambda body: body[: body.rindex(b'"signature"')] + b'"signature":"xyz"}'),
        "expected 64 bytes",
    ),
    "an encoding that was not asked for": (_header("Content-Encoding", "gzip"), "encoding"),
    "depth without end": (_body(lambda body: b'{"tcbInfo":' + b"[" * 100_000), "not the JSON"),
}


@pytest.mark.parametrize(("change", "words"), WRONG_TCB.values(), ids=WRONG_TCB)
async def test_wrong_content_is_refused_and_never_kept(
    change: Callable[[web.Response], None], words: str, vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[TCB] = changed(vendor, change)
    problem = await problem_of(make_client, samples.sgx())
    assert isinstance(problem, BadCollateral)
    assert re.search(words, str(problem)), problem
    vendor.misbehave.clear()
    async with make_client() as client:
        assert (await client.prefetch(samples.sgx())).problems == ()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sgx/certification/v4/qe/identity", b'{"enclaveIdentity":{"id":"QE"},"signature":""}'),
        ("/sgx/certification/v4/qe/identity", b"[]"),
        ("/sgx/certification/v4/pckcrl", b"no CRL"),
        ("/IntelSGXRootCA.der", b"no CRL"),
        ("/IntelSGXRootCA.der", b""),
    ],
)
async def test_the_other_answers_are_read_as_closely(
    path: str, body: bytes, vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[path] = changed(vendor, _body(lambda _: body))
    assert isinstance(await problem_of(make_client, samples.sgx()), BadCollateral)


def _days(vendor: Any) -> dict[str, Any]:
    now = vendor.clock.moment
    return {"last_update": now, "next_update": now + timedelta(days=1)}


async def test_a_crl_of_somebody_else_is_refused(vendor: Any, make_client: Any, samples: Any) -> None:
    dcap = vendor.dcap("sgx")
    swapped = _body(lambda _: bytes.fromhex(dcap.root_ca_crl))
    vendor.misbehave["/sgx/certification/v4/pckcrl"] = changed(vendor, swapped)
    assert "expected the platform CA's" in str(await problem_of(make_client, samples.sgx()))
    foreign = _body(lambda _: vendor.chips[Product.GENOA].crl(**_days(vendor)))
    vendor.misbehave["/sgx/certification/v4/pckcrl"] = changed(vendor, foreign)
    assert "somebody else" in str(await problem_of(make_client, samples.sgx()))
    vendor.misbehave = {"/IntelSGXRootCA.der": saying(body=bytes.fromhex(dcap.pck_crl))}
    assert "expected the SGX root CA's" in str(await problem_of(make_client, samples.sgx()))


async def test_the_older_name_of_a_header_will_do(vendor: Any, make_client: Any, samples: Any) -> None:
    def rename(response: web.Response) -> None:
        response.headers["SGX-TCB-Info-Issuer-Chain"] = response.headers.pop(CHAIN)

    vendor.misbehave[TCB] = changed(vendor, rename)
    async with make_client() as client:
        assert (await client.prefetch(samples.sgx())).problems == ()


@pytest.mark.parametrize(
    ("status", "words"), [(400, "does not take"), (401, "a key"), (403, "a key"), (418, "does not take")]
)
async def test_other_refusals_are_told(
    status: int, words: str, vendor: Any, make_client: Any, samples: Any
) -> None:
    vendor.misbehave[TCB] = saying(status)
    problem = await problem_of(make_client, samples.sgx())
    assert isinstance(problem, BadCollateral)
    assert words in str(problem)
    assert "fmspc" not in str(problem)


async def test_the_kds_is_read_as_closely(vendor: Any, make_client: Any, samples: Any) -> None:
    evidence = samples.snp()
    amd = vendor.chips[Product.GENOA]
    path = f"/vcek/v1/Genoa/{amd.default_chip.hex()}"
    wrong = {
        "another chip": amd.vcek(chip=bytes(64)),
        "another TCB": amd.vcek(tcb={"bootloader": 1, "tee": 0, "snp": 1, "microcode": 1}),
        "another product": vendor.chips[Product.MILAN].vcek(chip=amd.default_chip),
        "an authority": amd.ask,
        "a VLEK": amd.vlek(),
        "garbage": b"garbage",
    }
    for name, der in wrong.items():
        vendor.misbehave = {path: saying(body=der)}
        async with make_client() as client:
            fetched = await client.prefetch(evidence)
        assert isinstance(fetched.problems[0], BadCollateral), name
    vendor.misbehave = {
        "/vcek/v1/Genoa/cert_chain": saying(body=amd.asvk),
        "/vcek/v1/Genoa/crl": saying(body=amd.ark),
    }
    async with make_client(cache=None) as client:
        fetched = await client.prefetch(evidence)
    assert isinstance(fetched.problems[0], BadCollateral)


async def test_a_certificate_of_tls_that_nobody_vouches_for_is_final(
    make_client: Any, samples: Any, vendor: Any
) -> None:
    # Plain HTTP where TLS is expected: not a matter of trying again.
    settings = CollateralSettings(intel_url=vendor.url.replace("http:", "https:"))
    problem = await problem_of(
        make_client, samples.sgx(), settings=settings, retry=RetryPolicy(first_pause=2.0, longest_pause=2.0)
    )
    assert isinstance(problem, VendorUnreachable)
    assert not problem.may_pass
