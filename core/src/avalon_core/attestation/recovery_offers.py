"""A KME that is to be recovered shows that the key for the owners' shares is its own; an owner, or a drill, judges that here.

The evidence is that of :func:`avalon_core.crypto.recovery.recovery_report_data`; the policy is the manifest's for KMEs
(:func:`avalon_core.attestation.pools.policy_of`) or an owner's own.
"""

from datetime import datetime

import msgspec

from avalon_core.attestation.appraisal import appraise, unreadable
from avalon_core.attestation.checks import AppraisalReport
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.proof_data import decode
from avalon_core.crypto.recovery import recovery_report_data
from avalon_core.errors import EvidenceError
from avalon_core.protocol.pools import PoolRecoverResult

MAX_OFFER_BYTES = 4 * 1024 * 1024
"""A key and evidence with its certificates and collateral: some tens of kilobytes, event logs are larger."""

_decoder = msgspec.json.Decoder(PoolRecoverResult)


def read_offer(text: bytes) -> PoolRecoverResult:
    """Read what a KME answered when its recovery began, from JSON.

    Raises:
        EvidenceError: it is none.
    """
    if len(text) > MAX_OFFER_BYTES:
        raise EvidenceError(f"a KME's recovery key of {len(text)} bytes: expected at most {MAX_OFFER_BYTES}")
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"not a KME's recovery key with its evidence: {exc}") from None


def appraise_offer(offer: PoolRecoverResult, policy: TrustPolicy, *, as_of: datetime) -> AppraisalReport:
    """Judge the evidence that a recovery key is a KME's own. To be done before a share is sealed to that key.

    The evidence must have been made for this very key and pool. That the pool is the owner's own is for the caller to see.

    Args:
        offer: what the KME answered.
        policy: which enclaves may get a share.
        as_of: the time, with a zone.

    Returns:
        Every check. Bad evidence raises nothing.
    """
    try:
        evidence, collateral = decode(offer.proof_data_type, offer.proof_data)
        bound = recovery_report_data(offer.key, offer.pool)
    except (EvidenceError, UnicodeEncodeError) as exc:
        told = exc if isinstance(exc, EvidenceError) else EvidenceError("the key or the pool is not text")
        return AppraisalReport(
            checks=[unreadable(told)], as_of=int(as_of.timestamp()), policy_name=policy.name
        )
    return appraise(evidence, policy, collateral=collateral, as_of=as_of, report_data=bound)
