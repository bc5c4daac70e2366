"""Whom to ask for collateral, and how long an answer is good for."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from avalon_sdk.errors import BadRequest
from avalon_sdk.trust import is_loopback

INTEL_PCS = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""The distribution point that every certificate of Intel's for SGX and TDX names."""

AMD_KDS = "https://kdsintf.amd.com"

DAY = 24 * 3600
_API_PATH = re.compile(r"/(sgx|tdx)/certification/v[0-9]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralSettings:
    """Services and ages. What evidence is judged by is no part of it: that is the policy's.

    Raises:
        BadRequest: not such a URL, or an age or time that cannot be.
    """

    intel_url: str = INTEL_PCS
    """The provisioning service (PCS), or a caching service (PCCS). A path such as ``/sgx/certification/v4`` may end it."""

    intel_kind: Literal["pcs", "pccs"] = "pcs"
    """Which of the two it is: they differ in how a root CRL and a PCK certificate are asked for."""

    intel_root_crl_url: str = INTEL_ROOT_CRL
    """Where the root's CRL is, for a PCS. It is named here and not read from certificates: else whoever makes evidence
    could have any address called."""

    intel_key: Callable[[], str] | None = None
    """Gives the subscription key that Intel's PCS asks for where a PCK certificate is looked up."""

    tcb_update: Literal["standard", "early"] = "standard"
    """``early``: TCB info that already knows of a recovery whose updates are still being rolled out."""

    amd_url: str = AMD_KDS
    max_age: int = DAY
    """Seconds after which statements and CRLs are asked for again, although they have not ended: vendors publish new ones
    whenever there is news."""

    negative_age: int = 300
    """Seconds for which "there is none" is believed, and an answer that had ended when it came."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "intel_url", _API_PATH.sub("", _base("the PCS or PCCS", self.intel_url)))
        object.__setattr__(self, "amd_url", _base("the KDS", self.amd_url))
        require_url("the root CRL", self.intel_root_crl_url)
        for name in ("max_age", "negative_age"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name}: got {getattr(self, name)}, expected seconds, 0 or more")


def _base(what: str, url: str) -> str:
    require_url(what, url)
    return url.rstrip("/")


def require_url(what: str, url: str) -> None:
    """Return only for an address that may be called: https, or http on this machine.

    Raises:
        BadRequest: another one.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable or parts.username or parts.password or parts.query or parts.fragment:
        raise BadRequest(f"{what}: not an address: got {url[:200]!r}, expected https://host[:port]")
    if parts.scheme == "http" and not is_loopback(url):
        raise BadRequest(
            f"{what}: got {url[:200]!r}, expected https: plain http is for this very machine only. The collateral is "
            "signed, but who is asked about which platform would be told to everybody on the way"
        )
