"""The platforms, by the name that the command line gives. A platform is chosen, never guessed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from avalon_enclave.errors import StartRefused
from avalon_enclave.platforms.base import Platform
from avalon_enclave.platforms.simulated import Kind, SimulatedTee

__all__ = ["PLATFORMS", "Platform", "PlatformOptions", "open_platform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformOptions:
    """What the command line says to a platform."""

    role: str
    state_path: Path | None = None
    """The simulated platform's sealing seed."""

    quoting_socket: Path | None = None
    """Where the simulated machine's quoting process listens."""

    simulated_kind: Kind = "sgx"
    """Which TEE the simulated platform imitates."""

    measured: Mapping[str, str] = field(default_factory=dict)
    """What else the enclave was told at launch that changes what it does. A platform that measures command lines has
    measured it already; the simulated one hashes it."""

    config_path: Path | None = None
    """The file that configures the platform: tpm needs one, gramine and tsm may have one."""


def _simulated(options: PlatformOptions) -> Platform:
    return SimulatedTee(
        role=options.role,
        quoting_socket=options.quoting_socket,
        kind=options.simulated_kind,
        state_path=options.state_path,
        configuration=options.measured,
    )


def _nitro(_options: PlatformOptions) -> Platform:
    # It loads the verifiers of core, which an enclave elsewhere does without.
    from avalon_enclave.platforms.nitro import NitroPlatform

    return NitroPlatform()


def _tpm(options: PlatformOptions) -> Platform:
    # Imported when it is chosen: what is not chosen must not cost the others anything.
    from avalon_enclave.platforms.tpm import TpmPlatform
    from avalon_enclave.platforms.tpm_config import read_config

    if options.config_path is None:
        raise StartRefused(
            "--platform tpm needs --platform-config PATH, a TOML file: see docs/attestation/tpm.md"
        )
    return TpmPlatform(read_config(options.config_path), role=options.role)


def _gramine(options: PlatformOptions) -> Platform:
    from avalon_enclave.platforms.gramine import GramineOptions, GraminePlatform
    from avalon_enclave.platforms.options_file import read_options

    return GraminePlatform(read_options(options.config_path, GramineOptions), role=options.role)


def _tsm(options: PlatformOptions) -> Platform:
    from avalon_enclave.platforms.options_file import read_options
    from avalon_enclave.platforms.tsm import TsmOptions, TsmPlatform

    return TsmPlatform(read_options(options.config_path, TsmOptions), role=options.role)


PLATFORMS: Mapping[str, Callable[[PlatformOptions], Platform]] = {
    "simulated": _simulated,
    "tpm": _tpm,
    "nitro": _nitro,
    "gramine": _gramine,
    "tsm": _tsm,
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
