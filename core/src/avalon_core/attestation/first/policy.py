"""What a requester accepts. An empty policy accepts nothing."""

from collections.abc import Set
from dataclasses import dataclass

from avalon_core.attestation.first.simulated import SIMULATOR_ROOT_PEM


@dataclass(frozen=True, slots=True)
class Measurements:
    """Accept enclaves whose measurement is in this set, and no others."""

    allowed: Set[str] = frozenset()
    """Lower-case hex."""

    def admits(self, measurement: str) -> bool:
        """Whether the measurement is in the set."""
        return measurement in self.allowed

    def __str__(self) -> str:
        return (
            f"one of {len(self.allowed)} allowed"
            if self.allowed
            else "one of 0 allowed (empty admits nothing)"
        )


class AnyMeasurementUNSAFE:
    """Accept whatever code runs in the enclave. Only for trying things out: it proves nothing about the worker."""

    def admits(self, measurement: str) -> bool:
        """True, for every measurement."""
        return True

    def __str__(self) -> str:
        return "any (UNSAFE)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """Roots and measurements that a requester accepts."""

    measurements: Measurements | AnyMeasurementUNSAFE = Measurements()
    simulator_roots: Set[str] = frozenset()
    """PEMs of simulator roots. Empty in production: simulated evidence is then refused."""

    @classmethod
    def development(cls, measurements: Set[str] | None = None) -> "TrustPolicy":
        """Accepts the published simulator root, and any measurement where none is given. Protects nothing."""
        return cls(
            measurements=AnyMeasurementUNSAFE() if measurements is None else Measurements(measurements),
            simulator_roots=frozenset({SIMULATOR_ROOT_PEM}),
        )

    @classmethod
    def production(cls, measurements: Set[str]) -> "TrustPolicy":
        """Accepts the given measurements under vendors' roots, and no simulator."""
        return cls(measurements=Measurements(measurements))
