"""AMD as the vendor of SEV-SNP, SIMULATED: ARK, ASK, ASVK, VCEKs and VLEKs from a seed, and reports that they sign.

    amd = SimulatedAmd(Product.GENOA)
    issued = amd.issue(ReportFields(version=3, measurement=measurement, report_data=report_data))
    evidence = Evidence(format="snp", document=issued.report, certificates=issued.certificates)

Reports have the very bytes of real ones and go through the ordinary verification. The certificates have AMD's shape and
extensions, and differ from AMD's in what determinism demands and honesty asks for:

- all keys are P-384 and all signatures deterministic ECDSA with SHA-384 (AMD's ARK, ASK and ASVK have RSA-4096 keys and
  sign with PSS, neither of which can be derived from a seed with the library at hand),
- dates and serial numbers are fixed (AMD's VCEKs have serial number 0),
- every name begins with SIMULATED.

Equal seed and arguments give equal bytes, so the digest of a root can be published.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from avalon_core.attestation.roots import TrustAnchor
from avalon_core.attestation.snp.certificates import (
    AMD_OID,
    CHIP_ID_BYTES,
    CSP_ID_OID,
    HWID_OID,
    PRODUCT_NAME_OID,
    SPL_OIDS,
)
from avalon_core.attestation.snp.products import Product, encode_tcb, tcb_components
from avalon_core.attestation.snp.report import BODY, ECDSA_P384_SHA384, NUMBER_BYTES, REPORT_BYTES, SigningKey
from avalon_core.simulator.seeds import Seed

NOT_BEFORE = datetime(2024, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 1, 1, tzinfo=UTC)
"""Of every certificate."""

CSP_ID = "simulated.invalid"
_MARK = "SIMULATED "
_ZEROS_16 = bytes(16)
_STRUCT_VERSIONS = {SigningKey.VCEK: 1, SigningKey.VLEK: 0}
_CPUIDS = MappingProxyType(
    {Product.MILAN: (0x19, 0x01, 1), Product.GENOA: (0x19, 0x11, 1), Product.TURIN: (0x1A, 0x02, 1)}
)
_TCBS: Mapping[Product, Mapping[str, int]] = MappingProxyType(
    {
        Product.MILAN: {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219},
        Product.GENOA: {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84},
        Product.TURIN: {"fmc": 1, "bootloader": 1, "tee": 1, "snp": 4, "microcode": 81},
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFields:
    """All fields of a report, with the defaults of an ordinary guest. Numbers and bits are raw, as in AMD 56860, 7.3."""

    version: int = 5
    guest_svn: int = 0
    policy: int = 0x30000
    family_id: bytes = _ZEROS_16
    image_id: bytes = _ZEROS_16
    vmpl: int = 0
    signature_algorithm: int = ECDSA_P384_SHA384
    platform_info: int = 0x25
    author_key_enabled: bool = False
    mask_chip_key: bool = False
    signing_key: int = SigningKey.VCEK
    report_data: bytes = bytes(64)
    measurement: bytes = bytes(48)
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = bytes(32)
    report_id_ma: bytes = b"\xff" * 32
    reported_tcb: Mapping[str, int] | None = None
    """Security versions by the names of :func:`~avalon_core.attestation.snp.products.tcb_components`; None for the
    product's usual ones."""

    current_tcb: Mapping[str, int] | None = None
    """None for the reported; so are the next two."""

    committed_tcb: Mapping[str, int] | None = None
    launch_tcb: Mapping[str, int] | None = None
    cpuid: tuple[int, int, int] | None = None
    """Family, model, stepping; None for the product's. Before version 3 the field is reserved and stays zero."""

    chip_id: bytes | None = None
    """64 bytes of the report's field; None for the chip that signs, 64 zeros for a platform that masks it."""

    current_firmware: tuple[int, int, int] = (1, 58, 1)
    committed_firmware: tuple[int, int, int] = (1, 58, 1)
    mitigation_vectors: tuple[int, int] = (0, 0)
    """At launch and current."""

    reserved: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """Bytes that are put over the signed part at an offset, last: for what no other field can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedReport:
    """A report and the chain of its key."""

    report: bytes
    """1184 bytes."""

    certificates: tuple[bytes, ...]
    """DER: VCEK, ASK, ARK or VLEK, ASVK, ARK."""


class SimulatedAmd:
    """AMD for one product line, SIMULATED."""

    def __init__(self, product: Product = Product.MILAN, seed: Seed | None = None) -> None:
        """``seed``: the published one unless given."""
        self.product = product
        self._seed = seed or Seed()

    @property
    def anchor(self) -> TrustAnchor:
        """The ARK as a known root, marked as a simulator's."""
        return TrustAnchor(
            name=f"simulator-amd-{self.product.lower()}",
            sha256=hashlib.sha256(self.ark).hexdigest(),
            simulated=True,
            description=f"SIMULATED ARK-{self.product}: no hardware stands behind it.",
        )

    @cached_property
    def ark(self) -> bytes:
        """The root's certificate, DER."""
        return self._authority(f"ARK-{self.product}", issuer=f"ARK-{self.product}", path_length=None)

    @cached_property
    def ask(self) -> bytes:
        """The issuer of VCEKs, DER."""
        return self._authority(f"SEV-{self.product}", issuer=f"ARK-{self.product}", path_length=0)

    @cached_property
    def asvk(self) -> bytes:
        """The issuer of VLEKs, DER."""
        return self._authority(f"SEV-VLEK-{self.product}", issuer=f"ARK-{self.product}", path_length=0)

    @property
    def default_tcb(self) -> Mapping[str, int]:
        """The security versions of an ordinary platform of this product."""
        return _TCBS[self.product]

    @cached_property
    def default_chip(self) -> bytes:
        """The HWID of the simulated chip: 64 bytes, on Turin 8."""
        return self._seed.derive(
            f"snp chip {self.product}", 8 if self.product is Product.TURIN else CHIP_ID_BYTES
        )

    def vcek(self, chip: bytes | None = None, tcb: Mapping[str, int] | None = None) -> bytes:
        """The certificate, DER, of a chip's key for a TCB version; ``chip`` is its HWID."""
        hwid = self.default_chip if chip is None else chip
        levels = self.default_tcb if tcb is None else tcb
        return self._key_certificate(SigningKey.VCEK, hwid, levels)

    def vlek(self, csp_id: str = CSP_ID, tcb: Mapping[str, int] | None = None) -> bytes:
        """The certificate, DER, of a cloud provider's key for a TCB version."""
        levels = self.default_tcb if tcb is None else tcb
        return self._key_certificate(SigningKey.VLEK, csp_id.encode("ascii"), levels)

    def issue(self, fields: ReportFields, *, chip: bytes | None = None, csp_id: str = CSP_ID) -> IssuedReport:
        """A report with these fields, signed by the VCEK of ``chip`` or the VLEK of ``csp_id``, as they say."""
        levels = self.default_tcb if fields.reported_tcb is None else fields.reported_tcb
        hwid = self.default_chip if chip is None else chip
        body = report_body(fields, product=self.product, chip=hwid, tcb=levels)
        if fields.signing_key == SigningKey.VLEK:
            certificates = (self.vlek(csp_id, levels), self.asvk, self.ark)
            key = self._key(self._signer(SigningKey.VLEK, csp_id.encode("ascii"), levels))
        else:
            certificates = (self.vcek(hwid, levels), self.ask, self.ark)
            key = self._key(self._signer(SigningKey.VCEK, hwid, levels))
        return IssuedReport(report=body + sign_body(body, key), certificates=certificates)

    def crl(self, *, last_update: datetime, next_update: datetime, revoked: Iterable[bytes] = ()) -> bytes:
        """The ARK's CRL, DER; ``revoked`` are certificates in DER (ASK, ASVK), withdrawn at ``last_update``."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(f"ARK-{self.product}"))
            .last_update(last_update)
            .next_update(next_update)
        )
        for der in revoked:
            entry = x509.RevokedCertificateBuilder(
                x509.load_der_x509_certificate(der).serial_number, last_update
            )
            builder = builder.add_revoked_certificate(entry.build())
        key = self._key(f"ARK-{self.product}")
        return builder.sign(key, hashes.SHA384(), ecdsa_deterministic=True).public_bytes(Encoding.DER)

    def _key(self, label: str) -> ec.EllipticCurvePrivateKey:
        return self._seed.key(f"snp {label}", ec.SECP384R1())

    def _signer(self, kind: SigningKey, owner: bytes, tcb: Mapping[str, int]) -> str:
        """The label of a VCEK or VLEK: another chip, provider or TCB version has another key."""
        return f"{kind.name} {self.product} {owner.hex()} {encode_tcb(tcb, self.product).hex()}"

    def _builder(self, subject: str, issuer: str, label: str) -> x509.CertificateBuilder:
        serial = int.from_bytes(self._seed.derive(f"snp serial {label}", 8), "big") >> 1 | 1
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(issuer))
            .serial_number(serial)
            .not_valid_before(NOT_BEFORE)
            .not_valid_after(NOT_AFTER)
            .public_key(self._key(label).public_key())
        )

    def _signed(self, builder: x509.CertificateBuilder, issuer: str) -> bytes:
        certificate = builder.sign(self._key(issuer), hashes.SHA384(), ecdsa_deterministic=True)
        return certificate.public_bytes(Encoding.DER)

    def _authority(self, name: str, *, issuer: str, path_length: int | None) -> bytes:
        builder = (
            self._builder(name, issuer, name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(_certificate_signing(crl_sign=path_length is None), critical=True)
        )
        return self._signed(builder, issuer)

    def _key_certificate(self, kind: SigningKey, owner: bytes, tcb: Mapping[str, int]) -> bytes:
        is_vcek = kind is SigningKey.VCEK
        issuer = f"SEV-{self.product}" if is_vcek else f"SEV-VLEK-{self.product}"
        name = f"{self.product}-B0" if is_vcek and self.product is not Product.TURIN else str(self.product)
        extensions = {
            f"{AMD_OID}.1": asn1.encode_der(_STRUCT_VERSIONS[kind]),
            PRODUCT_NAME_OID: asn1.encode_der(asn1.IA5String(name)),
        }
        for component in tcb_components(self.product):
            extensions[SPL_OIDS[component]] = asn1.encode_der(tcb.get(component, 0))
        if is_vcek:
            extensions[HWID_OID] = owner
        else:
            extensions[CSP_ID_OID] = asn1.encode_der(asn1.IA5String(owner.decode("ascii")))
        builder = self._builder(f"SEV-{kind.name}", issuer, self._signer(kind, owner, tcb))
        for oid, value in extensions.items():
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=False)
        return self._signed(builder, issuer)


def report_body(fields: ReportFields, *, product: Product, chip: bytes, tcb: Mapping[str, int]) -> bytes:
    """The 672 bytes of a report that are signed.

    Args:
        fields: of the report.
        product: whose layout of TCB versions it has.
        chip: HWID of the chip.
        tcb: where the fields leave it open.
    """

    def version(components: Mapping[str, int] | None) -> bytes:
        return encode_tcb(tcb if components is None else components, product)

    cpuid = fields.cpuid or (_CPUIDS[product] if fields.version >= 3 else (0, 0, 0))
    current_major, current_minor, current_build = fields.current_firmware
    committed_major, committed_minor, committed_build = fields.committed_firmware
    keys = fields.author_key_enabled | fields.mask_chip_key << 1 | fields.signing_key << 2
    body = bytearray(
        BODY.pack(
            fields.version, fields.guest_svn, fields.policy, fields.family_id, fields.image_id, fields.vmpl,
            fields.signature_algorithm, version(fields.current_tcb), fields.platform_info, keys, 0,
            fields.report_data, fields.measurement, fields.host_data, fields.id_key_digest,
            fields.author_key_digest, fields.report_id, fields.report_id_ma, version(fields.reported_tcb),
            *cpuid, b"", chip.ljust(CHIP_ID_BYTES, b"\0") if fields.chip_id is None else fields.chip_id,
            version(fields.committed_tcb),
            current_build, current_minor, current_major, 0,
            committed_build, committed_minor, committed_major, 0,
            version(fields.launch_tcb), *fields.mitigation_vectors, b"",
        )
    )  # fmt: skip
    for offset, value in fields.reserved.items():
        body[offset : offset + len(value)] = value
    return bytes(body)


def sign_body(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The 512 bytes of the signature field: r and s, 72 bytes each, little endian, then zeros (AMD 56860, chapter 10)."""
    der = key.sign(body, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    numbers = b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in decode_dss_signature(der))
    return numbers.ljust(REPORT_BYTES - BODY.size, b"\0")


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "SIMULATED: protects nothing"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, _MARK + common_name),
        ]
    )


def _certificate_signing(*, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
