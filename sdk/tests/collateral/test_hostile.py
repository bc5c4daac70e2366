"""Whatever a service, a bundle or evidence says: an answer or an error of ours, never another exception."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from avalon_core.attestation.collateral import Collateral, SnpCollateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.snp.products import Product, encode_tcb
from avalon_core.errors import AvalonError, EvidenceError
from avalon_core.simulator.intel import IntelSimulator
from avalon_core.simulator.intel_tcb import validity_at
from avalon_core.simulator.quotes import TdReport
from avalon_core.simulator.snp import ReportFields, SimulatedAmd
from avalon_sdk.collateral import BadCollateral, CollateralSettings, endings, needs_of
from avalon_sdk.collateral.amd import AmdQuestions
from avalon_sdk.collateral.asking import Question, read_answer
from avalon_sdk.collateral.http import Answer
from avalon_sdk.collateral.intel import IntelQuestions, header_of

NOW = datetime(2025, 6, 1, tzinfo=UTC)
INTEL, AMD = IntelSimulator(), SimulatedAmd(Product.GENOA)
DCAP = INTEL.collateral("sgx", validity_at(NOW))
CRL = AMD.crl(last_update=NOW, next_update=NOW + timedelta(days=1))
ISSUERS = b"".join(
    x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (AMD.ask, AMD.ark)
)
_intel, _amd = IntelQuestions(CollateralSettings()), AmdQuestions(CollateralSettings())
ANSWERS: dict[str, tuple[Question, bytes, dict[str, str]]] = {  # type: ignore[type-arg]
    "TCB info": (
        _intel.tcb_info("sgx", "53494d000000"),
        f'{{"tcbInfo":{DCAP.tcb_info},"signature":"{DCAP.tcb_info_signature}"}}'.encode(),
        {"tcb-info-issuer-chain": header_of(DCAP.tcb_info_issuer_chain)},
    ),
    "QE identity": (
        _intel.qe_identity("sgx"),
        f'{{"enclaveIdentity":{DCAP.qe_identity},"signature":"{DCAP.qe_identity_signature}"}}'.encode(),
        {"sgx-enclave-identity-issuer-chain": header_of(DCAP.qe_identity_issuer_chain)},
    ),
    "PCK CRL": (
        _intel.pck_crl("platform"),
        bytes.fromhex(DCAP.pck_crl),
        {"sgx-pck-crl-issuer-chain": header_of(DCAP.pck_crl_issuer_chain)},
    ),
    "root CRL": (_intel.root_crl(), bytes.fromhex(DCAP.root_ca_crl), {}),
    "VCEK": (
        _amd.vcek(Product.GENOA, AMD.default_chip, encode_tcb(AMD.default_tcb, Product.GENOA)),
        AMD.vcek(),
        {},
    ),
    "issuers": (_amd.issuers(Product.GENOA, "vcek"), ISSUERS, {}),
    "ARK CRL": (_amd.crl(Product.GENOA, "vcek"), CRL, {}),
}
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=3)


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int | None = None) -> bytes:
    content = bytearray(data)
    for place, value in changes:
        content[place % len(content)] = value
    return bytes(content if cut is None else content[: cut % len(content)])


@pytest.mark.parametrize(("question", "body", "headers"), ANSWERS.values(), ids=ANSWERS)
@given(changes=CHANGES, cut=st.none() | st.integers(0, 1 << 16), hits_header=st.booleans())
@settings(max_examples=150, deadline=None)
def test_answers(
    question: Question,  # type: ignore[type-arg]
    body: bytes,
    headers: dict[str, str],
    changes: list[tuple[int, int]],
    cut: int | None,
    hits_header: bool,
) -> None:
    read_answer(question, Answer(headers=headers, body=body))
    if hits_header and headers:
        headers = {name: damaged(text.encode(), changes).decode("latin-1") for name, text in headers.items()}
    else:
        body = damaged(body, changes, cut)
    with contextlib.suppress(BadCollateral):
        read_answer(question, Answer(headers=headers, body=body))


TD = Evidence(format="tdx", document=INTEL.tdx_quote(TdReport()))
_issued = AMD.issue(ReportFields(version=3))
SNP = Evidence(format="snp", document=_issued.report, certificates=_issued.certificates)


@given(changes=CHANGES, cut=st.none() | st.integers(0, 1 << 16))
@settings(max_examples=200, deadline=None)
def test_evidence(changes: list[tuple[int, int]], cut: int | None) -> None:
    leaf = damaged(SNP.certificates[0], changes, cut)
    for evidence in (
        Evidence(format="tdx", document=damaged(TD.document, changes, cut)),
        Evidence(format="snp", document=damaged(SNP.document, changes)),
        Evidence(format="snp", document=SNP.document, certificates=(leaf, *SNP.certificates[1:])),
    ):
        with contextlib.suppress(EvidenceError):
            needs_of(evidence)


@given(changes=CHANGES, cut=st.none() | st.integers(0, 1 << 16))
@settings(max_examples=100, deadline=None)
def test_ends_of_collateral(changes: list[tuple[int, int]], cut: int | None) -> None:
    collateral = Collateral(
        snp=(SnpCollateral(certificates=(damaged(AMD.vcek(), changes, cut),)),),
        crls=(damaged(CRL, changes, cut),),
    )
    with contextlib.suppress(AvalonError):
        endings(collateral)
