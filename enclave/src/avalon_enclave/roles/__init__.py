"""What an enclave can be. The command line names the role."""

from collections.abc import Callable, Mapping

from avalon_enclave.host_channel import HostChannel
from avalon_enclave.platforms import Platform
from avalon_enclave.roles.singleton import run_singleton

__all__ = ["ROLES"]


def _run_kme(channel: HostChannel, platform: Platform) -> int:
    # Imported when it is chosen: an enclave outside of a pool judges nobody, and does without the verifiers.
    from avalon_enclave.roles.kme import run_kme

    return run_kme(channel, platform)


def _run_wpe(channel: HostChannel, platform: Platform) -> int:
    from avalon_enclave.roles.wpe import run_wpe

    return run_wpe(channel, platform)


ROLES: Mapping[str, Callable[[HostChannel, Platform], int]] = {
    "singleton": run_singleton,
    "kme": _run_kme,
    "wpe": _run_wpe,
}
"""By name: a function that runs the role to its end and returns the exit code."""
