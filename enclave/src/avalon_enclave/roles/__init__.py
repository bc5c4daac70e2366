"""What an enclave can be. The command line names the role."""

from collections.abc import Callable, Mapping

from avalon_enclave.host_channel import HostChannel
from avalon_enclave.platforms import Platform
from avalon_enclave.roles.singleton import run_singleton

__all__ = ["ROLES"]

ROLES: Mapping[str, Callable[[HostChannel, Platform], int]] = {
    "singleton": run_singleton,
    # kme and wpe join here with the pool.
}
"""By name: a function that runs the role to its end and returns the exit code."""
