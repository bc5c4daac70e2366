"""What the rest of the service needs of whatever runs a worker: one enclave, or a pool of them."""

from __future__ import annotations

from typing import Protocol

from avalon_core.protocol.registry import EncryptionKeyGrant
from avalon_service.hosts.shift import HostState


class Host(Protocol):
    """Runs one worker."""

    @property
    def state(self) -> HostState:
        """For status pages and metrics."""

    @property
    def measurements(self) -> frozenset[str]:
        """Of all code that a requester's policy must admit, as far as it is known. Hex."""

    async def serving(self) -> None:
        """Return when orders are processed."""

    async def vouch(self, tag: str) -> EncryptionKeyGrant:
        """The worker's present encryption key, signed in an enclave under a tag.

        Raises:
            NotServing
        """

    async def run(self) -> None:
        """Keep the worker running until :meth:`stop`.

        Raises:
            EnclaveEnded: its enclave did not even start.
        """

    def stop(self) -> None:
        """Ask for an orderly end."""
