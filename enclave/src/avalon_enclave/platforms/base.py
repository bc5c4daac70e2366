"""What a platform is: how evidence is issued and how keys are sealed. All that differs between kinds of TEE."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


class Platform(Protocol):
    """One kind of TEE, as seen from inside."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def simulated(self) -> bool:
        """No hardware protects what runs here."""

    def measurement(self) -> str:
        """Hex of the value that evidence will carry: the identity of the code that runs."""

    def issue_evidence(self, report_data: bytes) -> tuple[str, Any]:
        """Have the platform vouch for 64 bytes.

        Returns:
            proofDataType and proofData of the worker record.
        """

    def seal(self, secret: bytes) -> bytes:
        """Encrypt so that only enclaves of the same signer on this very platform can decrypt.

        Raises:
            StartRefused: the platform cannot seal as it is set up.
        """

    def unseal(self, sealed: bytes) -> bytes:
        """Undo :meth:`seal`.

        Raises:
            SealingFailed: sealed elsewhere, by another signer, or changed.
            StartRefused: the platform cannot unseal as it is set up.
        """


@runtime_checkable
class Reporting(Protocol):
    """A platform that was set up for this machine, and tells its operator what it found there."""

    @property
    def findings(self) -> Mapping[str, str]:
        """Names and values for the log; nothing secret."""
