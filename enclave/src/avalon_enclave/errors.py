"""Why an enclave does not start, or ends.

    AvalonError
    └── EnclaveError
        ├── StartRefused       the command line, the configuration or the installation is wrong (exit code 2)
        │   └── KeysRefused    the sealed keys are not this worker's, or do not open (exit code 3)
        ├── PoolStateRefused   the keys and manifest of a pool, or a change of them, that cannot be
        └── SealingFailed      a platform could not unseal

Exit codes: 0 ended as told (Shutdown, or the host closed the channel), 2 and 3 as above, 4 the host broke the rules
of the channel, 70 a workload holds a thread and does not come back.
"""

from typing import ClassVar

from avalon_core.errors import AvalonError

EXIT_ENDED = 0
EXIT_START_REFUSED = 2
EXIT_KEYS_REFUSED = 3
EXIT_CHANNEL_BROKEN = 4
EXIT_WEDGED = 70


class EnclaveError(AvalonError):
    """The enclave cannot go on."""


class StartRefused(EnclaveError):
    """The enclave does not start as it was told to."""

    exit_code: ClassVar[int] = EXIT_START_REFUSED


class KeysRefused(StartRefused):
    """The sealed keys do not open, or belong to another worker. New keys are never made in their place."""

    exit_code: ClassVar[int] = EXIT_KEYS_REFUSED


class SealingFailed(EnclaveError):
    """The blob was not sealed by this platform for this enclave, or was changed."""


class PoolStateRefused(EnclaveError):
    """The state of the pool, or the change of it, cannot be."""
