"""The root of every error that Avalon raises on purpose.

    AvalonError
    ├── EncodingError            text that is not the hex or base64 it must be
    ├── KeyFormatError           a key that cannot be read, or is of the wrong kind
    ├── SignatureMismatch        a signature that does not verify
    ├── DecryptionFailed         ciphertext that does not open under the key at hand
    ├── ChannelError             a frame or message between host and enclave that breaks the rules
    ├── SessionClosed            an attested session between enclaves that takes nothing any more
    ├── HandshakeRefused         a peer with which no attested session is made
    ├── EvidenceError            evidence that cannot be read (attestation)
    ├── PolicyViolation          evidence that was read and is not acceptable (attestation)
    └── WireError                (space, code) pairs that travel to the requester (protocol.errors)

The docstring of a class is its message where none is given. No error ever carries plaintext, a key or a
ciphertext in its text: what is wrong is named, never quoted.
"""

import inspect


class AvalonError(Exception):
    """Something in Avalon went wrong."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (inspect.getdoc(type(self)) or "").splitlines()[0]
        super().__init__(self.message)


class EncodingError(AvalonError):
    """The text is not in the encoding that this member demands."""


class KeyFormatError(AvalonError):
    """The key cannot be read, or is of another kind than expected."""


class SignatureMismatch(AvalonError):
    """The signature does not verify under the given key."""


class DecryptionFailed(AvalonError):
    """The message does not open: another key sealed it, or it was changed on the way."""


class ChannelError(AvalonError):
    """The peer on the channel between host and enclave broke the framing rules."""


class EvidenceError(AvalonError):
    """The attestation evidence cannot be read."""


class PolicyViolation(AvalonError):
    """The attestation evidence is not acceptable under the policy in force."""


class SessionClosed(AvalonError):
    """The attested session is closed."""


class HandshakeRefused(AvalonError):
    """No attested session is made with this peer."""

    def __init__(self, reason: str, message: str) -> None:
        """``reason``: a few words of a fixed list, for counters and the peer; ``message``: for the own log."""
        self.reason = reason
        super().__init__(f"{reason}: {message}")
