"""Sealing on the simulated platform: SIMULATED. The seed is a file of the host, and **the host can unseal**.

Bound to the signer, not to the measurement (MRSIGNER-like): another version of this distribution, in the same role,
unseals what this one sealed. Bound to the measurement (MRENCLAVE-like), every upgrade would lose the worker's keys,
and with them every order sealed to it. The price: on a real TEE, whoever signs the enclave can write a version that
gives the keys away; that is why requesters pin measurements.
"""

import contextlib
import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from avalon_core.crypto import aead
from avalon_core.errors import DecryptionFailed
from avalon_core.protocol.encodings import encode_fields
from avalon_enclave.errors import SealingFailed, StartRefused

SEED_BYTES = 32
_SIGNER = "avalon-enclave"
"""Stands for the signer of the enclave (MRSIGNER and product id): the distribution itself."""

_FORMAT = b"avalon simulated seal 1\0"


class SimulatedSealing:
    """Seals under a seed that stands in for the processor's fuses."""

    def __init__(self, *, role: str, state_path: Path | None) -> None:
        """``state_path``: the file of the seed; it is made where it does not exist, once something is sealed."""
        self._role = role
        self._state_path = state_path

    def seal(self, secret: bytes) -> bytes:
        """As :meth:`avalon_enclave.platforms.base.Platform.seal`."""
        nonce = os.urandom(aead.NONCE_BYTES)
        return _FORMAT + nonce + aead.seal(self._key(), nonce, secret)

    def unseal(self, sealed: bytes) -> bytes:
        """As :meth:`avalon_enclave.platforms.base.Platform.unseal`."""
        start = len(_FORMAT) + aead.NONCE_BYTES
        if not sealed.startswith(_FORMAT):
            raise SealingFailed("the blob is not one that a simulated platform sealed")
        try:
            return aead.open_(self._key(), sealed[len(_FORMAT) : start], sealed[start:])
        except (DecryptionFailed, ValueError):
            raise SealingFailed(
                "the blob was sealed with another platform state, for another role, or was changed"
            ) from None

    def _key(self) -> bytes:
        if self._state_path is None:
            raise StartRefused(
                "keys are to be sealed, and the simulated platform has no state: "
                "give --platform-state PATH (a file that it makes), or configure fresh keys"
            )
        info = _FORMAT + encode_fields(_SIGNER, self._role)
        seed = _read_seed(self._state_path)
        return HKDF(algorithm=hashes.SHA256(), length=aead.KEY_BYTES, salt=None, info=info).derive(seed)


def _read_seed(path: Path) -> bytes:
    try:
        if not path.exists():
            _make_seed(path)
        seed = path.read_bytes()
    except OSError as exc:
        raise StartRefused(
            f"--platform-state: {path} cannot be read or made ({exc.strerror}); "
            "name a file in a directory that the enclave may write to"
        ) from exc
    if len(seed) != SEED_BYTES:
        raise StartRefused(
            f"--platform-state: {path} holds {len(seed)} bytes, expected {SEED_BYTES}; "
            "it is not a state of the simulated platform: name another file"
        )
    return seed


def _make_seed(path: Path) -> None:
    """Make the file whole or not at all, and let the first of several enclaves that start at once win."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(SEED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
