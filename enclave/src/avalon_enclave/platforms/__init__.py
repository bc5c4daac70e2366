"""The platforms, by the name that the command line gives. A platform is chosen, never guessed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from avalon_enclave.errors import StartRefused
from avalon_enclave.platforms.base import Platform
from avalon_enclave.platforms.simulated import SimulatedPlatform

__all__ = ["PLATFORMS", "Platform", "PlatformOptions", "open_platform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformOptions:
    """What the command line says to a platform."""

    role: str
    state_path: Path | None = None


def _simulated(options: PlatformOptions) -> Platform:
    return SimulatedPlatform(role=options.role, state_path=options.state_path)


PLATFORMS: Mapping[str, Callable[[PlatformOptions], Platform]] = {
    "simulated": _simulated,
    # gramine, tsm (TDX, SEV-SNP), nitro and tpm join here once each can issue evidence that core verifies.
}


def open_platform(name: str, options: PlatformOptions) -> Platform:
    """Open a platform.

    Raises:
        StartRefused: no such platform, or it is not set up.
    """
    factory = PLATFORMS.get(name)
    if factory is None:
        raise StartRefused(f"--platform: got {name!r}, expected one of: {', '.join(sorted(PLATFORMS))}")
    return factory(options)
