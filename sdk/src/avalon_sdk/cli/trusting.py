"""From the command line's options to a client with a trust policy."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.rules import MEASUREMENT_HEX_CHARS
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import KeyFormatError
from avalon_sdk.cli.output import remark
from avalon_sdk.client import AvalonClient
from avalon_sdk.errors import BadRequest
from avalon_sdk.trust import is_loopback, load_policy

DEVELOPMENT = "development"
_MAX_KEY_BYTES = 16 * 1024
_OTHERS = 0o077
_HEX = re.compile(r"[0-9a-f]+\Z")


def policy_of(policy: str | None, measurements: Sequence[str]) -> TrustPolicy | None:
    """The policy that the options describe; None where there are none.

    Raises:
        BadRequest: not a policy, or both a file and measurements.
    """
    allowed = frozenset(text.lower() for text in measurements)
    for text in allowed:
        if len(text) not in MEASUREMENT_HEX_CHARS or not _HEX.match(text):
            raise BadRequest("--measurement: expected 64 hex digits (of SGX and a TPM), 96 or 128")
    if policy == DEVELOPMENT:
        return TrustPolicy.development(allowed or None)
    if policy is not None:
        if allowed:
            raise BadRequest("--measurement goes with no policy file: add the measurement to the file")
        return load_policy(Path(policy))
    return TrustPolicy.production(allowed) if allowed else None


def open_client(
    url: str,
    policy: str | None,
    measurements: Sequence[str],
    *,
    requester_id: str | None = None,
    operator_token: Path | None = None,
) -> AvalonClient:
    """A client of the service with that policy."""
    client = AvalonClient(
        url,
        trust=policy_of(policy, measurements),
        requester_id=requester_id,
        operator_token=operator_token,
    )
    if urlsplit(url).scheme == "http" and not is_loopback(url):
        remark(
            f"{url} is not encrypted on the way: whoever listens sees ids and sizes, and can cancel orders that are "
            "not signed. Use https."
        )
    return client


def read_key(path: Path) -> SigningKey:
    """A signing key from a file in PEM.

    Raises:
        BadRequest: it cannot be read, everybody can read it, or it is none.
    """
    try:
        if path.stat().st_mode & _OTHERS:
            raise BadRequest(f"--key: others can read {path}: chmod 600 it")
        with path.open("rb") as file:
            return SigningKey.from_pem(file.read(_MAX_KEY_BYTES).decode())
    except (OSError, UnicodeDecodeError, KeyFormatError) as exc:
        raise BadRequest(
            f"--key: {path} is not a secp256k1 private key in PEM; 'openssl ecparam -name secp256k1 -genkey -noout' "
            "makes one"
        ) from exc
