"""The record layer of an attested session between two enclaves: what travels once a handshake has given it keys.

The hosts between the two carry opaque records. Each direction has a key of its own and numbers its records; whatever
a host drops, reorders, repeats or changes does not open as the next record, and the session is closed for good: the
ends make a new one. A key is used for at most :data:`MAX_RECORDS` records, :data:`MAX_KEY_BYTES` bytes or
:data:`MAX_KEY_SECONDS` seconds, then replaced by one that is derived from it and from which it cannot be computed.

    record      = AES-256-GCM(key, nonce, plaintext; associated data = session id, direction, generation)
    nonce       = 4 bytes 0, 8 bytes number of the record under this key (big endian)
    plaintext   = 1 byte kind (0 data, 1 next key, 2 closed), then the payload
    next secret = HKDF-Expand(secret, "avalon session next"), key = HKDF-Expand(secret, "avalon session key")

No clock and no I/O here: the time is an argument, in seconds of any monotonic clock of this enclave.
"""

import enum
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from avalon_core.errors import SessionClosed
from avalon_core.protocol.limits import MAX_FRAME_BYTES

MAX_RECORDS = 1 << 24
"""Far below the 2^32 that AES-GCM bears."""

MAX_KEY_BYTES = 1 << 36
MAX_KEY_SECONDS = 3600.0
SECRET_BYTES = 32
SESSION_ID_BYTES = 16
OVERHEAD_BYTES = 17
"""The tag and the kind."""

MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 4096
"""A record fits into a frame of a host's channel, with what stands around it there."""

_NONCE_BYTES = 12


class _Kind(enum.IntEnum):
    DATA = 0
    NEXT_KEY = 1
    CLOSED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeys:
    """What a handshake yields: one secret each way, and the public name of the session."""

    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)
    session_id: bytes
    """16 bytes, equal at both ends."""

    initiator: bool
    """This end began the handshake."""


class Session:
    """One end of a session. Not for several threads at once: records must leave in the order in which they are sealed."""

    def __init__(self, keys: SessionKeys, *, now: float, expires: float) -> None:
        """``expires``: when the evidence behind the session is too old for it, on the clock of ``now``."""
        ours, theirs = (b"i", b"r") if keys.initiator else (b"r", b"i")
        self.session_id = keys.session_id
        self._sending = _Direction(keys.sending, keys.session_id + ours, now)
        self._receiving = _Direction(keys.receiving, keys.session_id + theirs, now)
        self._expires = expires
        self._why_closed = ""

    @property
    def is_closed(self) -> bool:
        """It takes nothing any more."""
        return bool(self._why_closed)

    def is_over(self, now: float) -> bool:
        """It is closed, or the evidence behind it is too old: it takes nothing any more."""
        return bool(self._why_closed) or now >= self._expires

    def seal(self, payload: bytes, *, now: float) -> list[bytes]:
        """The records, one or two, that carry a payload; to be sent in this order and whole.

        Raises:
            SessionClosed: it is closed or expired, or the payload is too large.
        """
        self._check(now)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise SessionClosed(f"a payload of {len(payload)} bytes: expected at most {MAX_PAYLOAD_BYTES}")
        records = []
        if self._sending.is_worn(now):
            records.append(self._sending.seal(_Kind.NEXT_KEY, b""))
            self._sending.advance(now)
        records.append(self._sending.seal(_Kind.DATA, payload))
        return records

    def open(self, record: bytes, *, now: float) -> bytes | None:
        """The payload of the next record; None where it carries none (the peer changed its key).

        Raises:
            SessionClosed: it is not the next record of the peer, or the peer closed the session. It is closed now.
        """
        self._check(now)
        try:
            kind, payload = self._receiving.open(record)
        except InvalidTag:
            self.close(
                "a record is not the next one of the peer: it was changed, dropped, repeated or reordered"
            )
            raise SessionClosed(self._why_closed) from None
        if kind == _Kind.DATA:
            return payload
        if kind == _Kind.NEXT_KEY:
            self._receiving.advance(now)
            return None
        self.close("the peer closed the session")
        raise SessionClosed(self._why_closed)

    def goodbye(self) -> bytes | None:
        """The record that tells the peer of the end; the session is closed then. None: it was closed already."""
        if self._why_closed:
            return None
        record = self._sending.seal(_Kind.CLOSED, b"")
        self.close("this end closed the session")
        return record

    def close(self, why: str) -> None:
        """Take and give nothing any more, and forget the keys."""
        if not self._why_closed:
            self._why_closed = why
            self._sending.forget()
            self._receiving.forget()

    def _check(self, now: float) -> None:
        if not self._why_closed and now >= self._expires:
            self.close("the evidence behind the session is too old: make a new session")
        if self._why_closed:
            raise SessionClosed(self._why_closed)


class _Direction:
    """The keys of one way."""

    __slots__ = ("_aead", "_associated", "_bytes", "_generation", "_label", "_number", "_secret", "_since")

    def __init__(self, secret: bytes, label: bytes, now: float) -> None:
        self._label = label
        self._generation = 0
        self._take(secret, now)

    def is_worn(self, now: float) -> bool:
        """The key has done its work."""
        return (
            self._number >= MAX_RECORDS
            or self._bytes >= MAX_KEY_BYTES
            or now - self._since >= MAX_KEY_SECONDS
        )

    def seal(self, kind: _Kind, payload: bytes) -> bytes:
        record = self._aead.encrypt(self._nonce(), bytes((kind,)) + payload, self._associated)
        self._count(len(record))
        return record

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Raises InvalidTag."""
        if len(record) < OVERHEAD_BYTES or self._number > MAX_RECORDS:
            raise InvalidTag
        plaintext = self._aead.decrypt(self._nonce(), record, self._associated)
        self._count(len(record))
        return plaintext[0], plaintext[1:]

    def advance(self, now: float) -> None:
        """Go on with the next key; the one before cannot be computed from it."""
        self._generation += 1
        self._take(_expand(self._secret, b"avalon session next"), now)

    def forget(self) -> None:
        """Let go of the keys. (Python cannot wipe them; nothing refers to them any more.)"""
        self._secret = b""
        self._aead = AESGCM(bytes(SECRET_BYTES))

    def _take(self, secret: bytes, now: float) -> None:
        self._secret = secret
        self._aead = AESGCM(_expand(secret, b"avalon session key"))
        self._associated = self._label + self._generation.to_bytes(4, "big")
        self._number = self._bytes = 0
        self._since = now

    def _nonce(self) -> bytes:
        return self._number.to_bytes(_NONCE_BYTES, "big")

    def _count(self, size: int) -> None:
        self._number += 1
        self._bytes += size


def _expand(secret: bytes, label: bytes) -> bytes:
    return HKDFExpand(hashes.SHA256(), SECRET_BYTES, label).derive(secret)
