"""AWS Nitro Enclaves, SIMULATED: a public key infrastructure like AWS's, and documents like those of its device.

The chain has AWS's shape: root, region, zone, instance, and a certificate of three hours for the enclave, minted anew
for each document (real ones are kept for three hours). Keys come from a seed, dates and serial numbers of the
authorities are fixed, and signatures are deterministic (RFC 6979), so equal requests give equal bytes and the digest
of the root can be published.

Every field can be set, also to what the real device would never say: tests build broken evidence with it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from avalon_core.attestation import cbor
from avalon_core.attestation.nitro.cose import PROTECTED, SIGNATURE_BYTES, TAGGED, to_be_signed
from avalon_core.attestation.nitro.document import DIGEST
from avalon_core.attestation.roots import TrustAnchor
from avalon_core.simulator.seeds import Seed

ROOT_NAME = "simulator-aws-nitro"

PCR_COUNT = 16
"""The registers that the device locks before an enclave starts, and documents show."""

PCR_BYTES = 48
ZEROS = bytes(PCR_BYTES)

MODULE_ID = "i-00000000000000000-enc0000000000000000"
LEAF_LIFETIME = timedelta(hours=3)
"""As AWS has it."""

_NOT_BEFORE = datetime(2019, 10, 28, 13, 28, 5, tzinfo=UTC)
_NOT_AFTER = datetime(2049, 10, 28, 14, 28, 5, tzinfo=UTC)
_AUTHORITIES = ("root", "region", "zone", "instance")
_CURVE = ec.SECP384R1()
_UNSET: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroRequest:
    """What a document is to say."""

    timestamp_ms: int
    """Milliseconds since 1970. The certificate of the enclave is valid from that second on, for three hours."""

    pcrs: Mapping[int, bytes]
    """Registers by index: see :func:`enclave_pcrs`."""

    user_data: bytes | None = None
    nonce: bytes | None = None
    public_key: bytes | None = None
    module_id: str = MODULE_ID
    tagged: bool = False
    """With the COSE tag 18; the real device leaves it out."""

    members: Mapping[str, Any] = field(default_factory=lambda: _UNSET)
    """Replaces members of the document, last: for tests of what AWS would never send."""

    cabundle: Sequence[bytes] | None = None
    """DER, in place of the chain, root first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authority:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    """DER."""


def enclave_pcrs(*, image: str, debug: bool = False, signer: str | None = None) -> dict[int, bytes]:
    """The registers of an enclave, by labels that stand for its image and for who signed it.

    Args:
        image: PCR0 to PCR2 are derived of it (the real ones: whole image, kernel and boot ramdisk, application).
        debug: all registers of the image are zero, as in debug mode.
        signer: PCR8 is derived of it; zero without.
    """
    pcrs = dict.fromkeys(range(PCR_COUNT), ZEROS)
    if not debug:
        pcrs.update({index: _pcr(f"{image} {index}") for index in range(3)})
        if signer is not None:
            pcrs[8] = _pcr(f"{signer} 8")
    pcrs[3] = _pcr("role")
    pcrs[4] = _pcr("instance")
    return pcrs


def _pcr(label: str) -> bytes:
    """A register that was zero and extended once (AWS: SHA384(register, SHA384 of the data))."""
    return hashlib.sha384(ZEROS + hashlib.sha384(label.encode()).digest()).digest()


class NitroPki:
    """The authorities of one simulator, from its seed."""

    def __init__(self, seed: Seed | None = None, *, label: str = "aws-nitro") -> None:
        """``label``: another one makes another infrastructure from the same seed, for tests of foreign chains."""
        self._seed = seed or Seed()
        self._label = label
        authorities: list[_Authority] = []
        for depth, role in enumerate(_AUTHORITIES):
            authorities.append(self._authority(role, depth, authorities[-1] if authorities else None))
        self._issuer = authorities[-1]
        self._leaf_key = self._key("enclave")
        self.cabundle = tuple(authority.certificate for authority in authorities)
        """DER, root first: root, region, zone, instance."""

    @property
    def anchor(self) -> TrustAnchor:
        """The root, as verifiers know it."""
        return TrustAnchor(
            name=ROOT_NAME,
            sha256=hashlib.sha256(self.cabundle[0]).hexdigest(),
            simulated=True,
            description="SIMULATED AWS Nitro Enclaves root: no hardware stands behind it.",
        )

    def issue(self, request: NitroRequest) -> bytes:
        """A signed attestation document: the COSE_Sign1 that the device would return."""
        issued = datetime.fromtimestamp(request.timestamp_ms // 1000, UTC)
        document: dict[str, Any] = {
            "module_id": request.module_id,
            "digest": DIGEST,
            "timestamp": request.timestamp_ms,
            "pcrs": dict(request.pcrs),
            "certificate": self.leaf(issued),
            "cabundle": list(self.cabundle if request.cabundle is None else request.cabundle),
            "public_key": request.public_key,
            "user_data": request.user_data,
            "nonce": request.nonce,
        }
        return self.sign(cbor.encode(document | dict(request.members)), tagged=request.tagged)

    def sign(self, payload: bytes, *, protected: bytes = PROTECTED, tagged: bool = False) -> bytes:
        """A COSE_Sign1 over any payload, by the enclave's key."""
        algorithm = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)
        r, s = decode_dss_signature(self._leaf_key.sign(to_be_signed(protected, payload), algorithm))
        signature = b"".join(number.to_bytes(SIGNATURE_BYTES // 2, "big") for number in (r, s))
        return (TAGGED if tagged else b"") + cbor.encode([protected, {}, payload, signature])

    def leaf(
        self, not_before: datetime, *, lifetime: timedelta = LEAF_LIFETIME, digital_signature: bool = True
    ) -> bytes:
        """The DER of the enclave's certificate."""
        name = self._name("enclave")
        return self._certificate(
            name=name,
            public_key=self._leaf_key.public_key(),
            issuer=self._issuer,
            serial=int.from_bytes(
                self._seed.derive(f"{self._label} serial {not_before.timestamp():.0f}", 16), "big"
            )
            >> 1,
            validity=(not_before, not_before + lifetime),
            path_length=None,
            digital_signature=digital_signature,
        )

    def _authority(self, role: str, depth: int, issuer: _Authority | None) -> _Authority:
        key, name = self._key(role), self._name(role)
        # As AWS has it: none for the root, then 2, 1 and 0.
        path_length = None if issuer is None else len(_AUTHORITIES) - 1 - depth
        certificate = self._certificate(
            name=name,
            public_key=key.public_key(),
            issuer=issuer or _Authority(name=name, key=key, certificate=b""),
            serial=depth + 1,
            validity=(_NOT_BEFORE, _NOT_AFTER),
            path_length=path_length,
            authority=True,
        )
        return _Authority(name=name, key=key, certificate=certificate)

    def _certificate(
        self,
        *,
        name: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        issuer: _Authority,
        serial: int,
        validity: tuple[datetime, datetime],
        path_length: int | None,
        authority: bool = False,
        digital_signature: bool = True,
    ) -> bytes:
        usage = x509.KeyUsage(
            digital_signature=digital_signature,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=authority,
            crl_sign=authority,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer.name)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(validity[0])
            .not_valid_after(validity[1])
            .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
            .add_extension(usage, critical=True)
            .sign(issuer.key, hashes.SHA384(), ecdsa_deterministic=True)
        )
        return certificate.public_bytes(serialization.Encoding.DER)

    def _key(self, role: str) -> ec.EllipticCurvePrivateKey:
        return self._seed.key(f"{self._label} {role}", _CURVE)

    def _name(self, role: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Avalon simulator"),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, f"SIMULATED {self._label} {role}"),
            ]
        )
