"""From the command line's options to a client with a trust policy."""

import re
from collections.abc import Sequence
from pathlib import Path

from avalon_core.attestation import TrustPolicy
from avalon_sdk.client import AvalonClient
from avalon_sdk.errors import BadRequest
from avalon_sdk.trust import load_policy

DEVELOPMENT = "development"
_MEASUREMENT = re.compile(r"[0-9a-f]{64}\Z")


def policy_of(policy: str | None, measurements: Sequence[str]) -> TrustPolicy | None:
    """The policy that the options describe; None where there are none.

    Raises:
        BadRequest: not a policy, or both a file and measurements.
    """
    allowed = frozenset(text.lower() for text in measurements)
    for text in allowed:
        if not _MEASUREMENT.match(text):
            raise BadRequest("--measurement: expected 64 hex digits")
    if policy == DEVELOPMENT:
        return TrustPolicy.development(allowed or None)
    if policy is not None:
        if allowed:
            raise BadRequest("--measurement goes with no policy file: add the measurement to the file")
        return load_policy(Path(policy))
    return TrustPolicy.production(allowed) if allowed else None


def open_client(url: str, policy: str | None, measurements: Sequence[str]) -> AvalonClient:
    """A client of the service with that policy."""
    return AvalonClient(url, trust=policy_of(policy, measurements))
