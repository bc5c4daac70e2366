"""Which workers may see the data: the policy that applies where the caller names none, and policies in files.

To a service on this very machine the default is the development policy, which accepts the simulator and protects
nothing; that is said loudly. Anywhere else the default admits nobody: trust is never assumed.
"""

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from avalon_core.attestation import policy_text
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.policy_text import MAX_POLICY_BYTES
from avalon_core.attestation.rules import PolicyFormatError
from avalon_sdk.errors import BadRequest

HOW_TO_TRUST = (
    "Pass the measurements that you built or were told: trust=TrustPolicy.production({'<64 hex digits>'}), or "
    "--measurement or --policy on the command line."
)


class SimulatedWorkerWarning(UserWarning):
    """The worker is SIMULATED: no hardware protects the data, its operator can read all of it."""


def is_loopback(url: str) -> bool:
    """Whether the address is this very machine: ``localhost`` or a loopback address, nothing that merely looks so."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_policy(*, loopback: bool) -> TrustPolicy:
    """The policy where the caller gives none."""
    return TrustPolicy.development() if loopback else TrustPolicy()


def load_policy(path: Path) -> TrustPolicy:
    """Read a policy file: JSON where its name ends in ``.json`` or it begins with a brace, else TOML.

    What may stand in it is told in :mod:`avalon_core.attestation.policy_text`. An empty one admits nobody.

    Raises:
        BadRequest: not there, too large, or not a policy; the message says what is wrong.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_POLICY_BYTES + 1)
    except OSError as exc:
        raise BadRequest(
            f"the policy file {path} cannot be read: {exc.strerror}. Give the path of a TOML or JSON file."
        ) from exc
    try:
        return policy_text.load_policy_json(raw) if path.suffix == ".json" else policy_text.load_policy(raw)
    except PolicyFormatError as exc:
        raise BadRequest(f"the policy file {path} is not a trust policy: {exc.message}") from exc
