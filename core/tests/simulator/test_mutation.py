"""A changed byte of simulated evidence is refused like one of any other: the verifiers know no simulator."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from avalon_core.attestation.formats import format_named
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.simulator.vendors import MEASUREMENT_BYTES, EvidenceRequest, SimulatedVendors

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
VENDORS = SimulatedVendors()
ANCHORS = TrustPolicy.development().anchors()


def signed_bytes(kind: str, document: bytes) -> range:
    """Where signatures cover the document: of a quote, up to the certification data (PEM, whose line ends nobody signs)."""
    if kind in ("sgx", "tdx"):
        return range(document.index(b"-----BEGIN CERTIFICATE-----") - 6)
    return range(0x2A0 if kind == "snp" else len(document))


@pytest.mark.parametrize(("kind", "step"), [("sgx", 1), ("tdx", 1), ("snp", 1), ("nitro", 5)])
def test_no_changed_byte_is_accepted(kind: str, step: int) -> None:
    request = EvidenceRequest(
        kind=kind, measurement=bytes(range(MEASUREMENT_BYTES[kind])), report_data=b"data"
    )
    issued = VENDORS.issue(request, NOW)
    verifier = format_named(issued.evidence.format)
    document = issued.evidence.document
    good = verifier.verify(issued.evidence, anchors=ANCHORS, collateral=issued.collateral, as_of=NOW)
    assert good.claims is not None
    for place in signed_bytes(kind, document)[::step]:
        changed = bytearray(document)
        changed[place] ^= 0x01
        evidence = replace(issued.evidence, document=bytes(changed))
        outcome = verifier.verify(evidence, anchors=ANCHORS, collateral=issued.collateral, as_of=NOW)
        assert outcome.claims is None, f"byte {place} of {len(document)}"
