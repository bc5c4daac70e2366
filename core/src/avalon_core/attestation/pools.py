"""The policy that a pool's manifest makes for each role in it: what its enclaves judge each other by, and what an owner can
judge a key management enclave by.
"""

from avalon_core.attestation.claims import TcbStatus
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.rules import AnyOf, Measurements
from avalon_core.crypto.manifests import Manifest


def policy_of(manifest: Manifest, role: str) -> TrustPolicy:
    """The policy that the manifest makes for a role, ``kme`` or ``wpe``.

    Raises:
        ValueError: it names a status that there is not, or a measurement of no known length (PolicyFormatError).
    """
    allowed = manifest.kme_measurements if role == "kme" else manifest.wpe_measurements
    return TrustPolicy(
        name=f"the manifest of {manifest.worker_name}, version {manifest.version}",
        code=AnyOf(Measurements(frozenset(allowed))),
        roots=frozenset(manifest.roots),
        tcb_statuses=frozenset(TcbStatus(status) for status in manifest.tcb_statuses),
    )
