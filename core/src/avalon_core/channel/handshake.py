"""The handshake of an attested session: each side proves what code it is, and both agree on keys.

    initiator                                            responder
    Hello      pool, role, nonce               ------>
                                               <------   Challenge   nonce, unique id, signature, evidence
    Register   unique id, key, evidence, seal  ------>
                                               <------   Confirm     seal, mac
    Finish     mac                             ------>

The *unique id* is the public part of a fresh MLKEM768-X25519 key pair of the responder, in hex; the responder's pool
key signs it together with the initiator's nonce where it has one. The initiator answers with a fresh key of its own.
Each seals 32 random bytes to the other's fresh key (HPKE, hybrid post-quantum), under the transcript so far as its
``info``; the session's secrets come from both seals and the transcript. So

- the responder's evidence binds the transcript up to its unique id: REPORTDATA = SHA-512(domain, transcript);
- the initiator's evidence binds its key and the responder's unique id, as the original's pools have it:
  REPORTDATA = SHA-256(key hex), SHA-256(unique id hex);
- a recorded session cannot be opened later: both keys are forgotten when the handshake is over;
- a host between the two that changes a bit changes the transcript, and no mac verifies.

*Resumption*, within the time for which the evidence is good: the initiator names an earlier session, both mix the
secret that it left into the new keys instead of showing evidence, and new seals are exchanged all the same:

    Resume     session, nonce, key, mac        ------>
                                               <------   Resumed     nonce, unique id, seal, mac
    Finish     seal, mac                       ------>

Each resumption secret is good for one resumption. No clock, no I/O and no policy here: evidence is issued and judged
by the caller's functions, and the time is an argument.
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from msgspec import Meta

from avalon_core.channel.session import SECRET_BYTES, SESSION_ID_BYTES, Session, SessionKeys
from avalon_core.crypto.sealing import HpkePrivateKey, HpkePublicKey, load_hpke_public_key
from avalon_core.errors import DecryptionFailed, HandshakeRefused, KeyFormatError
from avalon_core.protocol.encodings import encode_fields

VERSION = "avalon session 1"
MAX_EVIDENCE_BYTES = 512 * 1024
"""Evidence and its collateral."""

MAX_MESSAGE_BYTES = MAX_EVIDENCE_BYTES + 16 * 1024
"""Evidence, a key and a seal. Whoever sends more has proved nothing yet, and is not read."""

HANDSHAKE_SECONDS = 30.0
"""A challenge that was not answered by then is stale."""

_KEY_HEX = 2 * 1216
_SEALED_BYTES = 1120 + SECRET_BYTES + 16
_MAC_BYTES = 32

_Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Key = Annotated[str, Meta(min_length=_KEY_HEX, max_length=_KEY_HEX)]
_Seal = Annotated[bytes, Meta(min_length=_SEALED_BYTES, max_length=_SEALED_BYTES)]
_Mac = Annotated[bytes, Meta(min_length=_MAC_BYTES, max_length=_MAC_BYTES)]
_Evidence = Annotated[bytes, Meta(max_length=MAX_EVIDENCE_BYTES)]
_Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Hello(msgspec.Struct, frozen=True, tag="hello", array_like=True, forbid_unknown_fields=True):
    """The initiator's first word."""

    version: _Name
    pool: _Name
    role: _Name
    nonce: _Nonce


class Challenge(msgspec.Struct, frozen=True, tag="challenge", array_like=True, forbid_unknown_fields=True):
    """The responder's answer."""

    role: _Name
    nonce: _Nonce
    unique_id: _Key
    signature: Annotated[bytes, Meta(max_length=80)]
    """DER by the pool's key over :func:`unique_id_digest`; empty where the responder has none (yet)."""

    evidence: _Evidence


class Register(msgspec.Struct, frozen=True, tag="register", array_like=True, forbid_unknown_fields=True):
    """The initiator's evidence and key."""

    unique_id: _Key
    key: _Key
    evidence: _Evidence
    seal: _Seal


class Confirm(msgspec.Struct, frozen=True, tag="confirm", array_like=True, forbid_unknown_fields=True):
    """The responder accepts."""

    seal: _Seal
    mac: _Mac


class Finish(msgspec.Struct, frozen=True, tag="finish", array_like=True, forbid_unknown_fields=True):
    """The initiator's last word."""

    mac: _Mac
    seal: Annotated[bytes, Meta(max_length=_SEALED_BYTES)] = b""
    """Where it resumes; else empty: its seal has gone with Register."""


class Resume(msgspec.Struct, frozen=True, tag="resume", array_like=True, forbid_unknown_fields=True):
    """The initiator goes on from an earlier session."""

    version: _Name
    pool: _Name
    role: _Name
    session_id: Annotated[bytes, Meta(min_length=SESSION_ID_BYTES, max_length=SESSION_ID_BYTES)]
    nonce: _Nonce
    key: _Key
    mac: _Mac


class Resumed(msgspec.Struct, frozen=True, tag="resumed", array_like=True, forbid_unknown_fields=True):
    """The responder goes on from it, too."""

    nonce: _Nonce
    unique_id: _Key
    seal: _Seal
    mac: _Mac


class Refused(msgspec.Struct, frozen=True, tag="refused", array_like=True, forbid_unknown_fields=True):
    """The responder does not. Its reason is one of a fixed list, for the other end's log."""

    reason: _Name


Message = Hello | Challenge | Register | Confirm | Finish | Resume | Resumed | Refused

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_Expected = TypeVar("_Expected", bound=msgspec.Struct)

IssueEvidence = Callable[[bytes], bytes]
"""From 64 bytes of report data to encoded evidence."""

JudgeEvidence = Callable[[bytes, bytes, str], None]
"""(evidence, the report data that it must bind, the role that the peer claims): returns, or raises HandshakeRefused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What one end says of itself, and how it judges the other."""

    pool: str
    role: str
    issue: IssueEvidence
    judge: JudgeEvidence
    evidence_seconds: float
    """How long evidence that was judged now is good for: sessions and resumptions end then."""

    sign: Callable[[bytes], bytes] | None = None
    """DER of the pool's signature over a digest, where this end holds the pool's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What a session leaves behind for the next one with the same peer."""

    session_id: bytes
    secret: bytes = field(repr=False)
    peer_role: str
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """A session whose peer has proved what it is."""

    session: Session
    peer_role: str
    peer_evidence: bytes
    """As it came; empty where the session was resumed."""

    peer_key: str
    """Hex of the peer's fresh key."""

    unique_id: str
    resumption: Resumption
    resumed_from: bytes | None = None
    pool_signature: bytes = b""
    """At the initiator: DER, said to be by the pool's key over :func:`unique_id_digest` of ``unique_id`` and
    ``own_nonce``. To be checked as soon as the pool's key is known."""

    own_nonce: bytes = b""


def unique_id_digest(unique_id: str, nonce: bytes) -> bytes:
    """What the pool's key signs of a challenge: 32 bytes."""
    return hashlib.sha256(b"avalon unique id 1\0" + encode_fields(unique_id, nonce.hex())).digest()


def initiator_report_data(key: str, unique_id: str) -> bytes:
    """64 bytes: SHA-256 of the key's hex, SHA-256 of the unique id's hex."""
    return hashlib.sha256(key.encode()).digest() + hashlib.sha256(unique_id.encode()).digest()


class Initiator:
    """The end that begins. Each method takes one message of the peer and gives the answer to it."""

    def __init__(
        self, identity: Identity, *, responder_role: str, now: float, resume: Resumption | None = None
    ) -> None:
        self._identity = identity
        self._responder_role = responder_role
        self._resume = resume if resume is not None and resume.expires > now else None
        self._transcript = _Transcript(identity.pool)
        self._nonce = os.urandom(SECRET_BYTES)
        self._own = HpkePrivateKey.generate()
        self._seal_secret = os.urandom(SECRET_BYTES)
        self._step = _Step("start")
        self._challenge: Challenge | None = None

    def start(self) -> bytes:
        """The first message."""
        self._step.go("start", "asked")
        if self._resume is None:
            hello = Hello(VERSION, self._identity.pool, self._identity.role, self._nonce)
            return self._transcript.sent(hello)
        key = self._own.public_key.hex
        bare = Resume(
            VERSION,
            self._identity.pool,
            self._identity.role,
            self._resume.session_id,
            self._nonce,
            key,
            bytes(32),
        )
        mac = _mac(self._resume.secret, b"resume", _encoder.encode(bare))
        return self._transcript.sent(msgspec.structs.replace(bare, mac=mac))

    def receive(self, message: bytes, *, now: float) -> tuple[bytes, Established | None]:
        """Answer the responder: (what to send, the session where it is made now).

        Raises:
            HandshakeRefused: the peer is not to be spoken with; the handshake is over.
        """
        if self._step.name == "asked" and self._resume is not None:
            return self._resumed(message, now)
        if self._step.name == "asked":
            return self._challenged(message), None
        return self._confirmed(message, now)

    def _challenged(self, message: bytes) -> bytes:
        self._step.go("asked", "registered")
        challenge = self._challenge = _read(message, Challenge)
        identity = self._identity
        if challenge.role != self._responder_role:
            raise HandshakeRefused("wrong role", f"got {challenge.role!r}, expected {self._responder_role!r}")
        bare = msgspec.structs.replace(challenge, evidence=b"")
        identity.judge(challenge.evidence, self._transcript.report_data_with(bare), challenge.role)
        self._transcript.received(message)
        key = self._own.public_key.hex
        evidence = identity.issue(initiator_report_data(key, challenge.unique_id))
        partial = Register(challenge.unique_id, key, evidence, bytes(_SEALED_BYTES))
        info = self._transcript.info_with(partial)
        seal = _load(challenge.unique_id).seal(self._seal_secret, info)
        return self._transcript.sent(msgspec.structs.replace(partial, seal=seal))

    def _confirmed(self, message: bytes, now: float) -> tuple[bytes, Established]:
        self._step.go("registered", "done")
        confirm = _read(message, Confirm)
        theirs = _open(self._own, confirm.seal, self._transcript.info_with(None))
        keys = _Schedule(self._seal_secret + theirs, self._transcript.digest(confirm.seal))
        keys.check(b"responder", confirm.mac)
        assert self._challenge is not None
        finish = _encoder.encode(Finish(keys.mac(b"initiator")))
        expires = now + self._identity.evidence_seconds
        return finish, keys.established(
            initiator=True,
            now=now,
            expires=expires,
            peer_role=self._responder_role,
            peer_evidence=self._challenge.evidence,
            peer_key=self._challenge.unique_id,
            unique_id=self._challenge.unique_id,
            pool_signature=self._challenge.signature,
            own_nonce=self._nonce,
        )

    def _resumed(self, message: bytes, now: float) -> tuple[bytes, Established]:
        self._step.go("asked", "done")
        assert self._resume is not None
        resumed = _read(message, Resumed)
        theirs = _open(self._own, resumed.seal, self._transcript.info_with(None))
        bare = msgspec.structs.replace(resumed, mac=bytes(_MAC_BYTES))
        expected = _mac(self._resume.secret + theirs, b"resumed", self._transcript.info_with(bare))
        if not hmac.compare_digest(expected, resumed.mac):
            raise HandshakeRefused("bad mac", "the responder does not know the earlier session")
        self._transcript.received(message)
        seal = _load(resumed.unique_id).seal(self._seal_secret, self._transcript.info_with(None))
        keys = _Schedule(self._seal_secret + theirs + self._resume.secret, self._transcript.digest(seal))
        finish = _encoder.encode(Finish(keys.mac(b"initiator"), seal))
        return finish, keys.established(
            initiator=True,
            now=now,
            expires=self._resume.expires,
            peer_role=self._responder_role,
            peer_evidence=b"",
            peer_key=resumed.unique_id,
            unique_id=resumed.unique_id,
            resumed_from=self._resume.session_id,
        )


class Responder:
    """The end that is asked. One object a handshake: its unique id is good for one registration."""

    def __init__(
        self,
        identity: Identity,
        *,
        accepts: frozenset[str],
        take_resumption: Callable[[bytes], Resumption | None],
        now: float,
    ) -> None:
        """``accepts``: roles. ``take_resumption``: gives up what a session left behind, once."""
        self._identity = identity
        self._accepts = accepts
        self._take_resumption = take_resumption
        self._deadline = now + HANDSHAKE_SECONDS
        self._transcript = _Transcript(identity.pool)
        self._own = HpkePrivateKey.generate()
        self._seal_secret = os.urandom(SECRET_BYTES)
        self._step = _Step("start")
        self._peer_role = ""
        self._peer_key = ""
        self._peer_evidence = b""
        self._keys: _Schedule | None = None
        self._resumption: Resumption | None = None
        self._partial = b""

    @property
    def unique_id(self) -> str:
        """Hex of the fresh public key of this handshake."""
        return self._own.public_key.hex

    def receive(self, message: bytes, *, now: float) -> tuple[bytes | None, Established | None]:
        """Answer the initiator: (what to send, the session where it is made now).

        Raises:
            HandshakeRefused: the peer is not to be spoken with; the handshake is over.
        """
        if now > self._deadline:
            raise HandshakeRefused(
                "stale nonce", f"the challenge was not answered within {HANDSHAKE_SECONDS:g} s"
            )
        if self._step.name == "start":
            first = _read_any(message)
            if isinstance(first, Resume):
                return self._resume(message, first, now), None
            if not isinstance(first, Hello):
                raise HandshakeRefused(
                    "wrong message", f"got {type(first).__name__}, expected Hello or Resume"
                )
            return self._greeted(message, first), None
        if self._step.name == "challenged":
            return self._registered(message), None
        return None, self._finished(message, now)

    def _greeted(self, message: bytes, hello: Hello) -> bytes:
        self._step.go("start", "challenged")
        self._check_opening(hello.version, hello.pool, hello.role)
        self._transcript.received(message)
        identity = self._identity
        signature = identity.sign(unique_id_digest(self.unique_id, hello.nonce)) if identity.sign else b""
        bare = Challenge(identity.role, os.urandom(SECRET_BYTES), self.unique_id, signature, b"")
        evidence = identity.issue(self._transcript.report_data_with(bare))
        return self._transcript.sent(msgspec.structs.replace(bare, evidence=evidence))

    def _registered(self, message: bytes) -> bytes:
        self._step.go("challenged", "confirmed")
        register = _read(message, Register)
        if register.unique_id != self.unique_id:
            raise HandshakeRefused(
                "unknown unique id", "it is not the one that was given out here, or was used before"
            )
        report_data = initiator_report_data(register.key, register.unique_id)
        self._identity.judge(register.evidence, report_data, self._peer_role)
        partial = msgspec.structs.replace(register, seal=bytes(_SEALED_BYTES))
        theirs = _open(self._own, register.seal, self._transcript.info_with(partial))
        self._transcript.received(message)
        seal = _load(register.key).seal(self._seal_secret, self._transcript.info_with(None))
        self._keys = _Schedule(theirs + self._seal_secret, self._transcript.digest(seal))
        self._peer_key, self._peer_evidence = register.key, register.evidence
        return _encoder.encode(Confirm(seal, self._keys.mac(b"responder")))

    def _resume(self, message: bytes, resume: Resume, now: float) -> bytes:
        self._step.go("start", "confirmed")
        self._check_opening(resume.version, resume.pool, resume.role)
        resumption = self._resumption = self._take_resumption(resume.session_id)
        if resumption is None or resumption.expires <= now or resumption.peer_role != resume.role:
            raise HandshakeRefused("unknown session", "there is nothing to resume: begin with Hello")
        bare = msgspec.structs.replace(resume, mac=bytes(_MAC_BYTES))
        if not hmac.compare_digest(_mac(resumption.secret, b"resume", _encoder.encode(bare)), resume.mac):
            raise HandshakeRefused("bad mac", "the initiator does not know the earlier session")
        self._transcript.received(message)
        seal = _load(resume.key).seal(self._seal_secret, self._transcript.info_with(None))
        partial = Resumed(os.urandom(SECRET_BYTES), self.unique_id, seal, bytes(_MAC_BYTES))
        mac = _mac(resumption.secret + self._seal_secret, b"resumed", self._transcript.info_with(partial))
        self._peer_key = resume.key
        return self._transcript.sent(msgspec.structs.replace(partial, mac=mac))

    def _finished(self, message: bytes, now: float) -> Established:
        self._step.go("confirmed", "done")
        finish = _read(message, Finish)
        expires = now + self._identity.evidence_seconds
        resumed_from = None
        if self._resumption is not None:
            theirs = _open(self._own, finish.seal, self._transcript.info_with(None))
            secrets = theirs + self._seal_secret + self._resumption.secret
            self._keys = _Schedule(secrets, self._transcript.digest(finish.seal))
            expires = self._resumption.expires
            resumed_from = self._resumption.session_id
        assert self._keys is not None
        self._keys.check(b"initiator", finish.mac)
        return self._keys.established(
            initiator=False,
            now=now,
            expires=expires,
            peer_role=self._peer_role,
            peer_evidence=self._peer_evidence,
            peer_key=self._peer_key,
            unique_id=self.unique_id,
            resumed_from=resumed_from,
        )

    def _check_opening(self, version: str, pool: str, role: str) -> None:
        if version != VERSION:
            raise HandshakeRefused(
                "wrong version", f"got {version!r}, expected {VERSION!r}; nothing older is spoken"
            )
        if pool != self._identity.pool:
            raise HandshakeRefused("another pool", "the initiator belongs to another pool")
        if role not in self._accepts:
            raise HandshakeRefused(
                "wrong role", f"got {role!r}, expected one of {', '.join(sorted(self._accepts))}"
            )
        self._peer_role = role


def refusal(reason: str) -> bytes:
    """The message that tells the initiator that it is refused."""
    return _encoder.encode(Refused(reason[:128]))


class _Transcript:
    """A running hash over the messages, as they travelled."""

    def __init__(self, pool: str) -> None:
        self._hash = hashlib.sha256(encode_fields(VERSION, pool))

    def sent(self, message: msgspec.Struct) -> bytes:
        encoded = _encoder.encode(message)
        self.received(encoded)
        return encoded

    def received(self, encoded: bytes) -> None:
        self._hash.update(len(encoded).to_bytes(4, "big") + encoded)

    def info_with(self, message: msgspec.Struct | None) -> bytes:
        """The hash so far and one message more, whose missing member is zeros."""
        probe = self._hash.copy()
        probe.update(_encoder.encode(message) if message is not None else b"")
        return b"avalon session seal 1\0" + probe.digest()

    def report_data_with(self, challenge: Challenge) -> bytes:
        probe = self._hash.copy()
        probe.update(_encoder.encode(challenge))
        return hashlib.sha512(b"avalon session evidence 1\0" + probe.digest()).digest()

    def digest(self, last_seal: bytes) -> bytes:
        probe = self._hash.copy()
        probe.update(last_seal)
        return probe.digest()


class _Schedule:
    """The keys of a session, from its secrets and its transcript."""

    def __init__(self, secrets: bytes, transcript: bytes) -> None:
        self._prk = HKDF.extract(hashes.SHA256(), transcript, secrets)

    def mac(self, who: bytes) -> bytes:
        return _mac(self._derive(b"confirm " + who), b"finished", b"")

    def check(self, who: bytes, mac: bytes) -> None:
        if not hmac.compare_digest(self.mac(who), mac):
            raise HandshakeRefused(
                "bad mac", "the other end has seen other messages: something was changed on the way"
            )

    def established(
        self,
        *,
        initiator: bool,
        now: float,
        expires: float,
        peer_role: str,
        peer_evidence: bytes,
        peer_key: str,
        unique_id: str,
        resumed_from: bytes | None = None,
        pool_signature: bytes = b"",
        own_nonce: bytes = b"",
    ) -> Established:
        forward, back = self._derive(b"initiator to responder"), self._derive(b"responder to initiator")
        session_id = self._derive(b"session id")[:SESSION_ID_BYTES]
        keys = SessionKeys(
            sending=forward if initiator else back,
            receiving=back if initiator else forward,
            session_id=session_id,
            initiator=initiator,
        )
        return Established(
            session=Session(keys, now=now, expires=expires),
            peer_role=peer_role,
            peer_evidence=peer_evidence,
            peer_key=peer_key,
            unique_id=unique_id,
            resumption=Resumption(
                session_id=session_id,
                secret=self._derive(b"resumption"),
                peer_role=peer_role,
                expires=expires,
            ),
            resumed_from=resumed_from,
            pool_signature=pool_signature,
            own_nonce=own_nonce,
        )

    def _derive(self, label: bytes) -> bytes:
        return HKDFExpand(hashes.SHA256(), SECRET_BYTES, b"avalon session 1 " + label).derive(self._prk)


class _Step:
    """Where a handshake stands. Whatever fails leaves it between two steps, where nothing is taken any more."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._next = name

    def go(self, expected: str, then: str) -> None:
        """From ``expected`` to ``then``; each step is taken once."""
        if self.name != expected:
            raise HandshakeRefused("wrong message", f"a handshake that stands at {self.name!r} takes none")
        self.name = then


def _mac(key: bytes, label: bytes, message: bytes) -> bytes:
    return hmac.digest(key, label + b"\0" + message, "sha256")


def _read_any(message: bytes) -> Message:
    if len(message) > MAX_MESSAGE_BYTES:
        raise HandshakeRefused(
            "malformed message", f"got {len(message)} bytes, expected at most {MAX_MESSAGE_BYTES}"
        )
    try:
        return _decoder.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise HandshakeRefused("malformed message", f"not a message of a handshake: {exc}") from None


def _read(message: bytes, expected: type[_Expected]) -> _Expected:
    read = _read_any(message)
    if isinstance(read, Refused):
        raise HandshakeRefused("refused by the peer", f"the peer's reason: {read.reason!r}")
    if not isinstance(read, expected):
        raise HandshakeRefused("wrong message", f"got {type(read).__name__}, expected {expected.__name__}")
    return read


def _load(key: str) -> HpkePublicKey:
    try:
        return load_hpke_public_key(key)
    except KeyFormatError as exc:
        raise HandshakeRefused("malformed key", exc.message) from None


def _open(own: HpkePrivateKey, seal: bytes, info: bytes) -> bytes:
    try:
        secret = own.open_(seal, info)
    except DecryptionFailed:
        raise HandshakeRefused(
            "bad seal", "it was made for another handshake, or changed on the way"
        ) from None
    if len(secret) != SECRET_BYTES:
        raise HandshakeRefused("bad seal", f"it holds {len(secret)} bytes, expected {SECRET_BYTES}")
    return secret
