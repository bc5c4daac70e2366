"""Real evidence, and the very files that Intel's and AMD's services gave for it."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from aiohttp import web

from avalon_core.attestation.collateral import DcapCollateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.files import read_evidence
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.known_roots import VENDOR_ROOTS
from avalon_core.attestation.snp import Product
from avalon_core.errors import EvidenceError
from avalon_sdk.collateral import CollateralSettings, needs_of


@pytest.fixture
def vectors() -> Iterator[Path]:
    default = Path(__file__).parents[3].parent / "shared" / "vectors"
    path = Path(os.environ.get("AVALON_VECTORS", default))
    if not path.is_dir():
        assert "AVALON_VECTORS" not in os.environ, f"AVALON_VECTORS names {path}, which is not a folder"
        pytest.skip("no shared vectors: set AVALON_VECTORS to the folder that holds them")
    return path / "evidence"


def real(path: Path) -> DcapCollateral:
    return msgspec.json.decode(path.read_bytes(), type=DcapCollateral)


def serve(vendor: Any, dcap: DcapCollateral, *, tee: str, ca: str) -> None:
    """Have the vendor give this platform's real answers."""

    def statement(name: str, text: str, signature: str, header: str, chain: str) -> Any:
        body = f'{{"{name}":{text},"signature":"{signature}"}}'

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body.encode(), headers={header: quote(chain, safe="")})

        return answer

    def crl(hexed: str, chain: str = "") -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            assert request.query.get("ca", ca) == ca
            headers = {"SGX-PCK-CRL-Issuer-Chain": quote(chain, safe="")} if chain else {}
            return web.Response(body=bytes.fromhex(hexed), headers=headers)

        return answer

    base = "/certification/v4/"
    vendor.misbehave = {
        f"/{tee}{base}tcb": statement(
            "tcbInfo",
            dcap.tcb_info,
            dcap.tcb_info_signature,
            "TCB-Info-Issuer-Chain",
            dcap.tcb_info_issuer_chain,
        ),
        f"/{tee}{base}qe/identity": statement(
            "enclaveIdentity",
            dcap.qe_identity,
            dcap.qe_identity_signature,
            "SGX-Enclave-Identity-Issuer-Chain",
            dcap.qe_identity_issuer_chain,
        ),
        f"/sgx{base}pckcrl": crl(dcap.pck_crl, dcap.pck_crl_issuer_chain),
        "/IntelSGXRootCA.der": crl(dcap.root_ca_crl),
    }


PLATFORMS = {
    "SGX, OutOfDate": (
        "sgx-dcap/oasisprotocol-oasis-core/quote_v3_ecdsa_p256_pck_chain.bin",
        "sgx-dcap/assembled/collateral_sgx_00606A000000_2025-08.json",
        1756530546,
    ),
    "SGX, ConfigurationAndSWHardeningNeeded": (
        "sgx-dcap/phala-network-dcap-qvl/sgx_quote",
        "sgx-dcap/phala-network-dcap-qvl/sgx_quote_collateral.json",
        1751624924,
    ),
    "TDX, UpToDate": (
        "tdx/google-go-tdx-guest/cos-113-tdx-quote.dat",
        "tdx/assembled/collateral_tdx_00806F050000_2025-07.json",
        1753175614,
    ),
    "TDX, version 5": (
        "tdx/google-go-tdx-guest/quote_v5_sample.dat",
        "tdx/assembled/collateral_tdx_90C06F000000_2026-01.json",
        1769529299,
    ),
}


@pytest.mark.parametrize(("quote_file", "collateral_file", "at"), PLATFORMS.values(), ids=PLATFORMS)
async def test_real_answers_verify_real_quotes(
    quote_file: str,
    collateral_file: str,
    at: int,
    vectors: Path,
    vendor: Any,
    make_client: Any,
    clock: Any,
) -> None:
    clock.at = at
    evidence = read_evidence((vectors / quote_file).read_bytes()).evidence
    dcap = real(vectors / collateral_file)
    (need,) = needs_of(evidence).needs
    serve(vendor, dcap, tee=need.tee, ca=need.ca)
    for _ in range(2):
        async with make_client() as client:
            fetched = await client.prefetch(evidence)
        assert fetched.problems == ()
    assert len(vendor.asked) == 4
    (found,) = fetched.collateral.dcap
    assert (found.tcb_info, found.qe_identity) == (dcap.tcb_info, dcap.qe_identity)
    assert (found.root_ca_crl, found.pck_crl) == (dcap.root_ca_crl, dcap.pck_crl)
    verification = format_named(evidence.format).verify(
        evidence,
        anchors=VENDOR_ROOTS,
        collateral=fetched.collateral,
        as_of=datetime.fromtimestamp(at, UTC),
    )
    assert verification.claims is not None, verification.checks


async def test_the_very_bodies_that_the_services_sent(
    vectors: Path, vendor: Any, make_client: Any, clock: Any
) -> None:
    """Bodies as they were recorded; the chain travels in a header."""
    folder = vectors / "sgx-dcap" / "oasisprotocol-oasis-core"
    evidence = read_evidence((folder / "quote_v3_ecdsa_p256_pck_chain.bin").read_bytes()).evidence
    dcap = real(vectors / PLATFORMS["SGX, OutOfDate"][1])
    serve(vendor, dcap, tee="sgx", ca="platform")
    chain = quote((folder / "tcb_info_v3_fmspc_00606A000000_certs.pem").read_text(), safe="")
    body = (folder / "tcb_info_v3_fmspc_00606A000000.json").read_bytes()

    async def recorded(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"TCB-Info-Issuer-Chain": chain})

    vendor.misbehave["/sgx/certification/v4/tcb"] = recorded
    clock.at = 1672531200
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    assert fetched.problems == ()
    (found,) = fetched.collateral.dcap
    assert found.tcb_info.encode() in body
    assert found.tcb_info_signature.encode() in body


async def test_a_real_quote_that_only_names_its_platform_asks_intel_by_its_ppid(
    vectors: Path, vendor: Any, make_client: Any
) -> None:
    path = vectors / "sgx-dcap" / "oasisprotocol-oasis-core" / "quote_v3_ecdsa_p256_eppid.bin"
    evidence = read_evidence(path.read_bytes()).evidence
    async with make_client(settings=CollateralSettings(intel_url=vendor.url, intel_kind="pccs")) as client:
        await client.prefetch(evidence)
    assert "&encrypted_ppid=" in vendor.asked[0]


REPORTS = {
    "Milan, version 2": (
        "sev-snp/virtee-sev/report_milan.hex",
        "sev-snp/virtee-sev/vcek_milan.der",
        "sev-snp/virtee-sev/cert_chain_milan",
        Product.MILAN,
    ),
    "Milan, debug": (
        "sev-snp/google-go-sev-guest/attestation.bin",
        "sev-snp/google-go-sev-guest/vcek.testcer",
        "sev-snp/google-go-sev-guest/ask_ark_milan.pem",
        Product.MILAN,
    ),
}


@pytest.mark.parametrize(("report", "vcek", "chain", "product"), REPORTS.values(), ids=REPORTS)
async def test_real_certificates_verify_real_reports(
    report: str, vcek: str, chain: str, product: Product, vectors: Path, vendor: Any, make_client: Any
) -> None:
    evidence: Evidence = read_evidence((vectors / report).read_bytes(), format_name="snp").evidence
    (need,) = needs_of(evidence).needs
    assert product in need.products

    def file(name: str) -> Any:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=(vectors / name).read_bytes())

        return answer

    vendor.misbehave = {
        f"/vcek/v1/{product}/{need.chip_id.hex()}": file(vcek),
        f"/vcek/v1/{product}/cert_chain": file(chain),
    }
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    # The CRL is the simulator's: it is of ARK-Milan by its name, and speaks of nobody here.
    (snp,) = fetched.collateral.snp
    assert len(snp.certificates) == 3
    verification = format_named("snp").verify(
        evidence,
        anchors=VENDOR_ROOTS,
        collateral=fetched.collateral,
        as_of=datetime(2025, 1, 1, tzinfo=UTC),
    )
    assert verification.claims is not None, verification.checks


async def test_the_real_chain_of_vleks_and_of_turin_is_read(
    vectors: Path, vendor: Any, make_client: Any
) -> None:
    from avalon_sdk.collateral.amd import AmdQuestions
    from avalon_sdk.collateral.http import Answer

    questions = AmdQuestions(CollateralSettings())
    folder = vectors / "sev-snp" / "google-go-sev-guest"
    for product in Product:
        name = f"ask_ark_{product.lower()}"
        for kind, path in (
            ("vcek", folder / (f"{name}_vcek.pem" if product is Product.TURIN else f"{name}.pem")),
            ("vlek", folder / f"{name}_vlek.pem"),
        ):
            answer = Answer(headers={}, body=path.read_bytes())
            reading = questions.issuers(product, kind).read(answer)  # type: ignore[arg-type]
            assert len(reading.value) == 2
    turin = (vectors / "sev-snp" / "virtee-sev" / "vcek_turin.der").read_bytes()
    from avalon_core.attestation.chains import load_certificate
    from avalon_core.attestation.snp.certificates import read_key_certificate

    key = read_key_certificate(load_certificate(turin))
    assert key.chip_id is not None
    question = questions.vcek(key.product, key.chip_id, key.tcb)
    assert question.url.startswith(f"https://kdsintf.amd.com/vcek/v1/Turin/{key.chip_id[:8].hex()}?fmcSPL=")
    assert question.read(Answer(headers={}, body=turin)).value == turin


async def test_real_crls_are_read(vectors: Path) -> None:
    from avalon_sdk.collateral.reading import crl_of

    folder = vectors / "tdx" / "google-go-tdx-guest"
    assert len(list(crl_of((folder / "pckcrl").read_bytes()))) == 44
    assert len(list(crl_of((folder / "rootcrl.der").read_bytes()))) == 0


async def test_azures_envelope_needs_what_is_in_it(vectors: Path, vendor: Any, make_client: Any) -> None:
    folder = vectors / "azure-vtpm" / "kinvolk-azure-cvm-tooling"
    snp = Evidence(format="azure", document=(folder / "hcl-report-snp.bin").read_bytes())
    (need,) = needs_of(snp).needs
    assert (need.kind, len(need.chip_id)) == ("vcek", 64)
    async with make_client() as client:
        await client.prefetch(snp)
    assert vendor.asked[0].startswith("/vcek/v1/Milan/")

    tdx = (folder / "hcl-report-tdx.bin").read_bytes()
    with pytest.raises(EvidenceError, match="td_quote"):
        needs_of(Evidence(format="azure", document=tdx))
    quote = (vectors / "tdx" / "google-go-tdx-guest" / "quote_v5_sample.dat").read_bytes()
    (need,) = needs_of(Evidence(format="azure", document=tdx, attachments={"td_quote": quote})).needs
    assert (need.tee, need.fmspc, need.ca) == ("tdx", "90c06f000000", "platform")
