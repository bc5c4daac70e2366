"""Real evidence of simulated vendors, and manifests that admit it."""

from datetime import UTC, datetime

import msgspec

from avalon_core.attestation.proof_data import encode
from avalon_core.crypto.manifests import Manifest
from avalon_core.simulator.vendors import EvidenceRequest, SimulatedVendors

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DATA = bytes(range(64))
KME, WPE = b"\xaa" * 32, b"\xbb" * 32
VENDORS = SimulatedVendors()
ROOTS = ("simulator", "simulator-amd-genoa", "simulator-aws-nitro")


def manifest(**members) -> Manifest:
    values = {
        "worker_name": "w",
        "kme_measurements": (KME.hex(),),
        "wpe_measurements": (WPE.hex(),),
        "roots": ("simulator",),
    }
    return Manifest(**values | members)


def evidence(measurement: bytes = WPE, *, kind="sgx", vendors=VENDORS, **request) -> bytes:
    request = {"report_data": DATA} | request
    issued = vendors.issue(EvidenceRequest(kind=kind, measurement=measurement, **request), NOW)
    return msgspec.msgpack.encode(encode(issued.evidence, issued.collateral))
