"""Intel's public key infrastructure for DCAP, SIMULATED: root, PCK CAs, PCK certificates, TCB signing, CRLs.

The shapes (order and content of extensions, name attributes, serial numbers that equal key identifiers) are those of
the certificates that Intel issues; the names say SIMULATED. Everything is deterministic, down to the signatures.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from avalon_core.simulator.seeds import Seed
from avalon_core.simulator.sgx_extension import SGX_EXTENSION, PckPlatform, encode_sgx_extension

PckCa = Literal["platform", "processor"]
"""Which CA certifies a platform: servers of several packages, or single processors."""

VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)
VALID_TO = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Of every certificate but that of the expired platform: a simulator must not end in the middle of a working day."""

EXPIRED_TO = datetime(2021, 1, 1, tzinfo=UTC)

_URL = "https://simulator.invalid/"
"""Never resolves (RFC 2606): nothing is to be fetched from anywhere."""

_SERIAL_BITS = 159
"""What X.509 (RFC 5280, 4.1.2.2) leaves of 20 bytes for a positive number."""

_SHA256 = hashes.SHA256()


@dataclass(frozen=True, slots=True)
class Authority:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


def issue_root(seed: Seed) -> Authority:
    """The root CA."""
    key = seed.key("intel root")
    name = _name("SIMULATED SGX Root CA")
    builder = _builder(name, key, issuer=name, issuer_key=key, crl="SGXRootCA.crl")
    return _sign(_as_authority(builder, path_length=1), key, key)


def issue_pck_ca(seed: Seed, root: Authority, ca: PckCa) -> Authority:
    """One of the two CAs that certify platforms."""
    key = seed.key(f"intel pck {ca} ca")
    # A verifier tells the CA, and with it which CRL to fetch, by these words in its name.
    name = _name(f"SIMULATED SGX PCK {ca.capitalize()} CA")
    builder = _builder(name, key, issuer=root.certificate.subject, issuer_key=root.key, crl="SGXRootCA.crl")
    return _sign(_as_authority(builder, path_length=0), key, root.key)


def issue_tcb_signing(seed: Seed, root: Authority) -> Authority:
    """The certificate that signs TCB info and QE identities."""
    key = seed.key("intel tcb signing")
    name = _name("SIMULATED SGX TCB Signing")
    builder = _builder(name, key, issuer=root.certificate.subject, issuer_key=root.key, crl="SGXRootCA.crl")
    return _sign(_as_signer(builder), key, root.key)


def issue_pck(
    seed: Seed, issuer: Authority, platform: PckPlatform, *, label: str, valid_to: datetime = VALID_TO
) -> Authority:
    """The certificate of a platform, whose key signs for its quoting enclaves."""
    key = seed.key(f"intel pck {label}")
    name = _name("SIMULATED SGX PCK Certificate")
    builder = _builder(
        name,
        key,
        issuer=issuer.certificate.subject,
        issuer_key=issuer.key,
        crl="PCK.crl",
        valid_to=valid_to,
    )
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(SGX_EXTENSION), encode_sgx_extension(platform)
    )
    return _sign(_as_signer(builder).add_extension(extension, critical=False), key, issuer.key)


def issue_crl(issuer: Authority, revoked: Iterable[int], *, issued: datetime, next_update: datetime) -> bytes:
    """DER of a CRL.

    Args:
        issuer: whose certificates it speaks of.
        revoked: their serial numbers.
        issued: with a zone; seconds count.
        next_update: when it ends.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(issued)
        .next_update(next_update)
    )
    for serial in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(VALID_FROM)
            .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
            .build()
        )
    crl = (
        builder.add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
        )
        .sign(issuer.key, _SHA256, ecdsa_deterministic=True)
    )
    return crl.public_bytes(serialization.Encoding.DER)


def pem_chain(*authorities: Authority) -> str:
    """Their certificates in PEM, in this order."""
    return "".join(
        authority.certificate.public_bytes(serialization.Encoding.PEM).decode() for authority in authorities
    )


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """The signature as quotes and collateral have it: r and s, 32 bytes each, over SHA-256 of the data."""
    signature = key.sign(data, ec.ECDSA(_SHA256, deterministic_signing=True))
    r, s = utils.decode_dss_signature(signature)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As quotes have it: x and y, 32 bytes each."""
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return point[1:]


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Avalon Simulator, no hardware"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Nowhere"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "NA"),
            # A code that ISO 3166 leaves to its users.
            x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
        ]
    )


def _builder(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    crl: str,
    valid_to: datetime = VALID_TO,
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(_URL + crl)], None, None, None)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(identifier.digest, "big") % (1 << _SERIAL_BITS))
        .not_valid_before(VALID_FROM)
        .not_valid_after(valid_to)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .add_extension(identifier, critical=False)
    )


def _as_authority(builder: x509.CertificateBuilder, *, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(_usage(signs_certificates=True), critical=True).add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    )


def _as_signer(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return builder.add_extension(_usage(signs_certificates=False), critical=True).add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=not signs_certificates,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey
) -> Authority:
    return Authority(key, builder.sign(issuer, _SHA256, ecdsa_deterministic=True))
