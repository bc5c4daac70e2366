"""What evidence needs is found, fetched from a vendor's service, and verifies."""

from collections.abc import Callable
from typing import Any

import pytest

from avalon_core.attestation.collateral import NO_COLLATERAL
from avalon_core.attestation.dcap.tcb_info import parse_tcb_info
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.snp import Product, SigningKey
from avalon_core.errors import EvidenceError
from avalon_core.simulator.nitro import NitroPki, NitroRequest, enclave_pcrs
from avalon_core.simulator.roots import SIMULATOR_ROOTS
from avalon_sdk.collateral import (
    CollateralSettings,
    Fetched,
    NoSuchCollateral,
    NotCached,
    Origin,
    needs_of,
)
from avalon_sdk.errors import BadRequest


def require_verified(evidence: Evidence, fetched: Fetched, clock: Any) -> None:
    verification = format_named(evidence.format).verify(
        evidence, anchors=SIMULATOR_ROOTS, collateral=fetched.collateral, as_of=clock.moment
    )
    assert verification.claims is not None, verification.checks


@pytest.mark.parametrize("ca", ["platform", "processor"])
@pytest.mark.parametrize("kind", ["sgx", "tdx"])
async def test_intel_quotes_get_what_they_need(
    kind: str, ca: str, vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    evidence = getattr(samples, kind)(ca=ca)
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    assert (fetched.problems, fetched.stale, fetched.notes) == ((), (), ())
    assert vendor.asked == [
        f"/{kind}/certification/v4/tcb?fmspc=53494d000000",
        f"/{kind}/certification/v4/qe/identity",
        f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der",
        "/IntelSGXRootCA.der",
    ]
    require_verified(evidence, fetched, clock)


async def test_signed_texts_stay_as_they_came(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    async with make_client() as client:
        fetched = await client.prefetch(samples.sgx())
    (dcap,) = fetched.collateral.dcap
    assert dcap.tcb_info == vendor.dcap("sgx").tcb_info
    assert dcap.qe_identity == vendor.dcap("sgx").qe_identity
    (tcb, *_) = fetched.pieces
    assert tcb.ends == int(parse_tcb_info(dcap.tcb_info).next_update.timestamp())
    assert (tcb.origin, tcb.what) == (Origin.NETWORK, "SGX TCB info of FMSPC 53494d000000")


@pytest.mark.parametrize("spelling", ["der", "hex", "pem"])
async def test_a_pccs_is_asked_in_its_own_way(
    spelling: str, vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    vendor.crl_as = spelling
    settings = CollateralSettings(
        intel_url=f"{vendor.url}/sgx/certification/v4/", intel_kind="pccs", amd_url=vendor.url
    )
    evidence = samples.sgx()
    async with make_client(settings=settings) as client:
        fetched = await client.prefetch(evidence)
    assert vendor.asked[-1] == "/sgx/certification/v4/rootcacrl"
    require_verified(evidence, fetched, clock)


@pytest.mark.parametrize("certification", [1, 2, 3])
@pytest.mark.parametrize("ca", ["platform", "processor"])
async def test_a_quote_that_only_names_its_platform_is_looked_up_through_a_pccs(
    certification: int, ca: str, vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    vendor_dcap = vendor.dcap
    vendor.dcap = lambda tee, _ca="platform": vendor_dcap(tee, ca)
    settings = CollateralSettings(intel_url=vendor.url, intel_kind="pccs")
    evidence = samples.sgx(certification=certification, ca=ca)
    async with make_client(settings=settings) as client:
        fetched = await client.prefetch(evidence)
    assert fetched.problems == ()
    question = vendor.asked[0]
    assert question.startswith("/sgx/certification/v4/pckcert?qeid=")
    assert ("encrypted_ppid=" in question) is (certification == 3)
    require_verified(evidence, fetched, clock)
    assert f"pckcrl?ca={ca}" in "".join(vendor.asked)


async def test_intel_itself_is_asked_by_the_encrypted_ppid_and_with_a_key(
    vendor: Any, make_client: Any, clock: Any, samples: Any, settings: Any
) -> None:
    from dataclasses import replace

    evidence = samples.sgx(certification=3)
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    assert "subscription key" in str(fetched.problems[0])
    async with make_client(settings=replace(settings, intel_key=lambda: "key")) as client:
        fetched = await client.prefetch(evidence)
    require_verified(evidence, fetched, clock)
    assert vendor.asked[1].startswith("/sgx/certification/v4/pckcert?encrypted_ppid=")
    assert "qeid" not in vendor.asked[1]
    keyed = [one.get("Ocp-Apim-Subscription-Key") for one in vendor.headers]
    assert keyed == [None, "key", None, None, None, None]


@pytest.mark.parametrize("certification", [1, 2])
async def test_intel_itself_cannot_be_asked_by_other_identifiers(
    certification: int, vendor: Any, make_client: Any, samples: Any
) -> None:
    async with make_client() as client:
        fetched = await client.prefetch(samples.sgx(certification=certification))
    assert isinstance(fetched.problems[0], NoSuchCollateral)
    assert "--pccs" in str(fetched.problems[0])
    assert vendor.asked == []


@pytest.mark.parametrize("product", list(Product))
async def test_snp_reports_get_what_they_need(
    product: Product, vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    evidence = samples.snp(product)
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    assert fetched.problems == ()
    require_verified(evidence, fetched, clock)
    hwid = vendor.chips[product].default_chip.hex()
    assert vendor.asked[0].startswith(f"/vcek/v1/{product}/{hwid}?")
    assert ("fmcSPL=" in vendor.asked[0]) is (product is Product.TURIN)
    assert vendor.asked[1:] == [f"/vcek/v1/{product}/cert_chain", f"/vcek/v1/{product}/crl"]


async def test_an_old_report_does_not_tell_its_product_and_both_are_asked(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    evidence = samples.snp(Product.GENOA, version=2)
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    require_verified(evidence, fetched, clock)
    assert [one.split("/")[3] for one in vendor.asked] == ["Milan", "Genoa", "Genoa", "Genoa"]


@pytest.mark.parametrize(
    ("carried", "asked"), [(1, ["cert_chain", "crl"]), (2, ["cert_chain", "crl"]), (3, ["crl"])]
)
async def test_what_comes_along_is_not_asked_for(
    carried: int, asked: list[str], vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    evidence = samples.snp(carried=carried)
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    assert [one.rpartition("/")[2] for one in vendor.asked] == asked
    require_verified(evidence, fetched, clock)


async def test_a_certificate_of_an_older_tcb_that_comes_along_is_of_no_use(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    fresh = samples.snp()
    old = vendor.chips[Product.GENOA].vcek(tcb={"bootloader": 1, "tee": 0, "snp": 1, "microcode": 1})
    evidence = Evidence(format="snp", document=fresh.document, certificates=(old,))
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    require_verified(evidence, fetched, clock)
    assert vendor.count("blSPL=") == 1


async def test_a_vlek_comes_with_the_evidence_or_not_at_all(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    evidence = samples.snp(carried=1, signing_key=SigningKey.VLEK)
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
        assert fetched.problems == ()
        require_verified(evidence, fetched, clock)
        assert vendor.asked == ["/vlek/v1/Genoa/cert_chain", "/vlek/v1/Genoa/crl"]
        bare = await client.prefetch(samples.snp(signing_key=SigningKey.VLEK))
    assert "the cloud provider alone" in str(bare.problems[0])


async def test_a_masked_chip_cannot_be_asked_for(vendor: Any, make_client: Any, samples: Any) -> None:
    async with make_client() as client:
        fetched = await client.prefetch(samples.snp(chip_id=bytes(64)))
    assert "MaskChipId" in str(fetched.problems[0])
    assert vendor.count("SPL") == 0


async def test_what_several_need_is_asked_for_once(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    evidence = [samples.sgx(), samples.sgx(), samples.tdx(), samples.snp(), samples.snp()]
    async with make_client(cache=None) as client:
        await client.prefetch(*evidence[:2], *evidence[3:])
        assert len(vendor.asked) == 7
    vendor.asked.clear()
    async with make_client() as client:
        fetched = await client.prefetch(*evidence)
    # TDX and SGX share both CRLs, by way of the cache.
    assert len(vendor.asked) == 9
    assert (len(fetched.collateral.dcap), len(fetched.collateral.snp)) == (2, 1)
    for one in evidence:
        require_verified(one, fetched, clock)


async def test_other_kinds_need_nothing_and_say_why(vendor: Any, make_client: Any) -> None:
    document = NitroPki().issue(NitroRequest(timestamp_ms=1, pcrs=enclave_pcrs(image="image")))
    async with make_client() as client:
        fetched = await client.prefetch(Evidence(format="nitro", document=document))
    assert fetched.collateral == NO_COLLATERAL
    assert "whole chain" in fetched.notes[0]
    assert vendor.asked == []


UNREADABLE: dict[str, Callable[[Any], Evidence]] = {
    "no quote": lambda samples: Evidence(format="sgx-dcap", document=b"nothing"),
    "a quote that is cut": lambda samples: Evidence(format="tdx", document=samples.tdx().document[:800]),
    "no report": lambda samples: Evidence(format="snp", document=bytes(1184)),
    "an unknown processor": lambda samples: samples.snp(cpuid=(0x33, 1, 1)),
    "no envelope": lambda samples: Evidence(format="azure", document=b"HCLA"),
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
async def test_evidence_that_cannot_be_read_is_refused_before_anybody_is_asked(
    make: Callable[[Any], Evidence], vendor: Any, make_client: Any, samples: Any
) -> None:
    async with make_client() as client:
        with pytest.raises(EvidenceError):
            await client.prefetch(make(samples))
    assert vendor.asked == []


async def test_too_much_evidence_is_refused(make_client: Any, samples: Any) -> None:
    async with make_client() as client:
        with pytest.raises(EvidenceError, match="expected at most 64"):
            await client.prefetch(*[samples.sgx()] * 65)


async def test_what_could_not_be_had_is_told_and_the_rest_is_there(
    vendor: Any, make_client: Any, samples: Any, clock: Any
) -> None:
    from aiohttp import web

    async def none(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    vendor.misbehave["/vcek/v1/Genoa/crl"] = none
    vendor.misbehave["/sgx/certification/v4/tcb"] = none
    snp = samples.snp()
    async with make_client() as client:
        fetched = await client.prefetch(snp, samples.sgx())
    assert len(fetched.problems) == 2
    with pytest.raises(NoSuchCollateral, match="404"):
        fetched.raise_for_problems()
    assert fetched.collateral.dcap == ()
    require_verified(snp, fetched, clock)


async def test_offline_without_a_cache_has_nothing(vendor: Any, make_client: Any, samples: Any) -> None:
    async with make_client(offline=True) as client:
        fetched = await client.prefetch(samples.sgx())
    assert isinstance(fetched.problems[0], NotCached)
    assert vendor.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://pccs.example",
        "ftp://127.0.0.1",
        "https://user:secret@host",
        "https://",
        "nothing",
        "https://host?x=1",
        "https://[::1",
        "http://127.0.0.1.example",
    ],
)
def test_only_https_or_this_machine_is_called(url: str) -> None:
    for field in ("intel_url", "amd_url", "intel_root_crl_url"):
        with pytest.raises(BadRequest, match="expected https"):
            CollateralSettings(**{field: url})


@pytest.mark.parametrize(
    "url", ["https://host:8081", "http://127.0.0.1:8081", "http://[::1]:1", "http://localhost/"]
)
def test_addresses_that_may_be_called(url: str) -> None:
    assert not CollateralSettings(intel_url=url).intel_url.endswith("/")


def test_needs_are_read_off_the_evidence_alone(samples: Any) -> None:
    (need,) = needs_of(samples.tdx(ca="processor", version=5)).needs
    assert (need.tee, need.fmspc, need.ca) == ("tdx", "53494d000000", "processor")
