"""Which workers may see the data: the policy that applies where the caller names none, and policies in files.

To a service on this very machine the default is the development policy, which accepts the simulator and protects
nothing; that is said loudly. Anywhere else the default admits nobody: trust is never assumed.
"""

import ipaddress
import json
import tomllib
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from avalon_core.attestation import TrustPolicy
from avalon_sdk.errors import BadRequest

MAX_POLICY_BYTES = 1024 * 1024
"""A policy is some lines; a larger file is a mistake."""

HOW_TO_TRUST = (
    "Pass the measurements that you built or were told: trust=TrustPolicy.production({'<64 hex digits>'}), or "
    "--measurement or --policy on the command line."
)


class SimulatedWorkerWarning(UserWarning):
    """The worker is SIMULATED: no hardware protects the data, its operator can read all of it."""


class PolicyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trust policy as TOML or JSON. An empty one admits nobody."""

    measurements: tuple[Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")], ...] = ()
    """Lower-case hex of the enclaves that are accepted."""

    accept_simulator: bool = False
    """Accept the published simulator root: for development, protects nothing."""


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
    """Read a policy file: JSON where its name ends in ``.json``, else TOML.

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
    if len(raw) > MAX_POLICY_BYTES:
        raise BadRequest(f"the policy file {path} is too large: expected at most {MAX_POLICY_BYTES} bytes")
    try:
        text = raw.decode()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        policy = msgspec.convert(content, PolicyFile, strict=True)
    except (ValueError, RecursionError) as exc:  # both parsers, UTF-8 and msgspec raise kinds of ValueError
        raise BadRequest(
            f"the policy file {path} is not a trust policy: {exc}. Expected measurements = [...] and, for "
            "development only, accept_simulator = true."
        ) from exc
    measurements = frozenset(policy.measurements)
    if policy.accept_simulator:
        return TrustPolicy.development(measurements)
    return TrustPolicy.production(measurements)
