"""All simulated vendors through the one question, and their published roots."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from avalon_core.attestation.known_roots import VENDOR_ROOTS
from avalon_core.attestation.snp.products import Product
from avalon_core.errors import EvidenceError
from avalon_core.simulator.nitro import NitroPki
from avalon_core.simulator.roots import SIMULATOR, SIMULATOR_AWS_NITRO, SIMULATOR_ROOTS
from avalon_core.simulator.seeds import DEFAULT_SEED
from avalon_core.simulator.snp import SimulatedAmd
from avalon_core.simulator.states import EXPECTATIONS, State
from avalon_core.simulator.vendors import MEASUREMENT_BYTES, EvidenceRequest, SimulatedVendors

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def request(kind: str, **values: Any) -> EvidenceRequest:
    return EvidenceRequest(
        kind=kind, **{"measurement": b"m" * MEASUREMENT_BYTES[kind], "report_data": b"r" * 64, **values}
    )


def test_the_published_roots_are_those_that_the_published_seed_makes() -> None:
    vendors = SimulatedVendors()
    assert hashlib.sha256(vendors.root("sgx")).hexdigest() == SIMULATOR.sha256
    assert vendors.root("tdx") == vendors.root("sgx")
    for product in Product:
        anchor = SimulatedAmd(product).anchor
        assert SIMULATOR_ROOTS.find(anchor.sha256) is SIMULATOR_ROOTS.named(anchor.name)
    assert NitroPki().anchor.sha256 == SIMULATOR_AWS_NITRO.sha256
    assert len(list(SIMULATOR_ROOTS)) == len(Product) + 2


def test_no_trust_store_of_vendors_has_a_simulators_root() -> None:
    for anchor in SIMULATOR_ROOTS:
        assert anchor.simulated
        assert "SIMULATED" in anchor.description
        assert VENDOR_ROOTS.find(anchor.sha256) is None
        assert VENDOR_ROOTS.named(anchor.name) is None


@pytest.mark.parametrize("kind", EXPECTATIONS)
def test_every_root_says_simulated(kind: str) -> None:
    root = x509.load_der_x509_certificate(SimulatedVendors().root(kind))
    (name,) = root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert str(name.value).startswith("SIMULATED")


@pytest.mark.parametrize(("kind", "state"), [(k, s) for k, states in EXPECTATIONS.items() for s in states])
def test_evidence_of_every_kind_is_made_in_every_state_the_same_every_time(kind: str, state: State) -> None:
    first = SimulatedVendors().issue(request(kind, state=state), NOW)
    assert first == SimulatedVendors(DEFAULT_SEED).issue(request(kind, state=state), NOW)
    assert SimulatedVendors().collateral(kind, NOW, state=state) == first.collateral


@pytest.mark.parametrize(
    ("why", "kind", "values"),
    [
        ("unknown kind", "sev", {}),
        ("has no state", "nitro", {"state": State.WRONG_QE}),
        ("a measurement of sgx has 32 bytes", "sgx", {"measurement": b"m" * 48}),
        ("at most 64 bytes", "sgx", {"report_data": b"r" * 65}),
        ("configuration id of tdx", "tdx", {"measurement": b"m" * 48, "config_id": b"c" * 49}),
        ("0 to 65535", "sgx", {"svn": 65536}),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(why: str, kind: str, values: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError, match=why):
        EvidenceRequest(**{"kind": kind, "measurement": b"m" * 32, "report_data": b"", **values})
