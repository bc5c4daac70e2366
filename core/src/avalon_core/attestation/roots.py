"""The roots that evidence may end in: vendors' by the digest of their certificate, and the simulator's.

A root is known here by the SHA-256 of its certificate in DER, the value that vendors publish; the certificate itself
comes with the evidence or its collateral. Known is not accepted: that is the policy's word, and no default policy for
production accepts a simulator.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

SHA256_HEX_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchor:
    """One root certificate."""

    name: str
    """As in policies and reports: ``intel-sgx``."""

    sha256: str
    """Lower-case hex of the SHA-256 over the certificate's DER."""

    simulated: bool = False
    """A simulator's root: no hardware stands behind it."""

    description: str = ""

    def __post_init__(self) -> None:
        if len(self.sha256) != SHA256_HEX_CHARS or self.sha256 != self.sha256.lower():
            raise ValueError(f"the root {self.name!r} needs {SHA256_HEX_CHARS} lower-case hex digits")
        bytes.fromhex(self.sha256)


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """A set of known roots, looked up by digest."""

    anchors: tuple[TrustAnchor, ...]
    _by_digest: Mapping[str, TrustAnchor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_digest", {anchor.sha256: anchor for anchor in self.anchors})

    def __iter__(self) -> Iterator[TrustAnchor]:
        return iter(self.anchors)

    def find(self, sha256: str) -> TrustAnchor | None:
        """The anchor of a certificate with this digest (lower-case hex), or None."""
        return self._by_digest.get(sha256)

    def named(self, name: str) -> TrustAnchor | None:
        """The anchor of that name, or None."""
        return next((anchor for anchor in self.anchors if anchor.name == name), None)

    def with_more(self, more: Iterable[TrustAnchor]) -> "TrustAnchors":
        """These and others."""
        return TrustAnchors((*self.anchors, *more))
