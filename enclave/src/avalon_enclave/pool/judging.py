"""Evidence between the enclaves of a pool: how one encodes its own, and judges a peer's by the manifest.

It is the ordinary appraisal (:mod:`avalon_core.attestation.appraisal`) under a policy made of the manifest, the same for the
simulator and for hardware: what differs is which roots the manifest names. Collateral travels with the evidence; the
host may add to it and hold it back, but not forge it.

What the manifest cannot say is fixed here: no debug mode, no revoked platform, revocation lists where the kind of TEE has
them, report data as the handshake demands. An enclave on hardware takes no simulated peer, whatever the manifest says.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from avalon_core.attestation.appraisal import appraise
from avalon_core.attestation.checks import AppraisalReport, Verdict
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.pools import policy_of
from avalon_core.attestation.proof_data import decode
from avalon_core.attestation.rules import PolicyFormatError
from avalon_core.channel.handshake import MAX_EVIDENCE_BYTES
from avalon_core.crypto.manifests import Manifest
from avalon_core.errors import EvidenceError, HandshakeRefused
from avalon_enclave.platforms.base import Platform

CODE_REFUSED = "measurement not allowed"
"""The reason for which a KME also stops by itself, where it is its own code that a changed manifest does not admit."""

_REASONS = {
    "accepted root": "root not accepted",
    "root": "root not accepted",
    "debug": "debug evidence",
    "attributes": "debug evidence",  # debug mode, or what else leaves the TEE open
    "code identity": CODE_REFUSED,
    "report data": "evidence of another handshake",
}
"""By the name of the check; what is not here is told as ``evidence refused: NAME``."""


class _Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    proof_data_type: str
    proof_data: Any


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Proof)


def issue(platform: Platform, report_data: bytes) -> bytes:
    """Have the platform vouch for 64 bytes, for a peer."""
    return _encoder.encode(_Proof(*platform.issue_evidence(report_data)))


class Judge:
    """Judges peers."""

    def __init__(
        self,
        *,
        simulated: bool,
        own_machine: Callable[[], str | None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Args:
            simulated: this enclave runs on the simulated platform. Else simulated peers are refused.
            own_machine: the chip or module id of this enclave's own evidence, for the rule of localisation.
            clock: the time of which peers' evidence must speak.
        """
        self._simulated = simulated
        self._own_machine = own_machine
        self._clock = clock

    def __call__(self, evidence: bytes, report_data: bytes, role: str, manifest: Manifest) -> None:
        """Return only where the manifest admits a peer of that role with this evidence.

        Raises:
            HandshakeRefused: with a reason of its own for each rule.
        """
        try:
            report = self.appraise(evidence, report_data, role, manifest)
        except HandshakeRefused:
            raise
        except Exception as exc:  # noqa: BLE001 strangers choose these bytes: a parser's defect must not end the enclave
            raise HandshakeRefused(
                "malformed evidence", f"its appraisal ended in {type(exc).__name__}"
            ) from None
        for check in report.problems:
            reason = _REASONS.get(check.name, f"evidence refused: {check.name}")
            raise HandshakeRefused(reason, f"got {check.found}, expected {check.expected}")
        claims = report.claims
        if claims is None or report.verdict is not Verdict.PASSED:
            raise HandshakeRefused("evidence refused", "nothing could be checked")
        if claims.simulated and not self._simulated:
            raise HandshakeRefused(
                "root not accepted", "a simulated peer has no business with an enclave on hardware"
            )
        if role == "wpe" and manifest.localisation == "same-platform":
            own = self._own_machine()
            if own is None or claims.chip_id != own:
                raise HandshakeRefused(
                    "another machine",
                    f"the manifest admits WPEs on this KME's machine only: got {claims.chip_id}",
                )

    def appraise(self, evidence: bytes, report_data: bytes, role: str, manifest: Manifest) -> AppraisalReport:
        """The whole report.

        Raises:
            HandshakeRefused: the evidence cannot be read, or the manifest makes no policy.
        """
        if len(evidence) > MAX_EVIDENCE_BYTES:
            raise HandshakeRefused("malformed evidence", f"more than {MAX_EVIDENCE_BYTES} bytes")
        try:
            proof = _decoder.decode(evidence)
            given, collateral = decode(proof.proof_data_type, proof.proof_data)
            policy = policy_of(manifest, role)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise HandshakeRefused("malformed evidence", "not evidence of a peer") from None
        except (EvidenceError, PolicyFormatError, ValueError) as exc:
            raise HandshakeRefused("malformed evidence", str(exc)) from None
        return appraise(given, policy, collateral=collateral, as_of=self._clock(), report_data=report_data)


def machine_of(evidence: bytes, *, as_of: datetime) -> str | None:
    """The chip or module id in an enclave's own evidence, or None where it carries none or does not verify.

    An enclave asks it of itself, for the rule of localisation. Under the published seed of the simulator all simulated
    machines are one.
    """
    try:
        proof = _decoder.decode(evidence)
        given, collateral = decode(proof.proof_data_type, proof.proof_data)
        verification = format_named(given.format).verify(
            given, anchors=TrustPolicy.development().anchors(), collateral=collateral, as_of=as_of
        )
    except (msgspec.DecodeError, EvidenceError):
        return None
    return verification.claims.chip_id if verification.claims is not None else None
