"""An Intel of our own for tests: root, PCK authority, TCB signer, platform, collateral and quotes, all made on the spot.

Every part can be spoilt on its own, which real samples do not allow: a revoked platform, a TCB level of any status, a
debug enclave, each kind of certification data. Keys are derived from small numbers, so a failing test fails again.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from avalon_core.attestation.checks import Verdict, Verification, overall
from avalon_core.attestation.claims import Claims
from avalon_core.attestation.collateral import Collateral, DcapCollateral
from avalon_core.attestation.dcap.certificates import read_certificates
from avalon_core.attestation.dcap.quotes import parse_quote
from avalon_core.attestation.evidence import Evidence, EvidenceFormat
from avalon_core.attestation.known_roots import INTEL_SGX
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors

CHECKS = (
    "format",
    "chain",
    "root",
    "validity",
    "collateral",
    "revocation",
    "quote signature",
    "qe binding",
    "qe signature",
    "qe identity",
    "tcb",
    "attributes",
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SGX, TDX = 0x00, 0x81
SGX_EXTENSION = "1.2.840.113741.1.13.1"
QE_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
CPUSVN = bytes([5, 5, 2, 2, 4, 1, 0, 5]) + bytes(8)
PCESVN = 13
FMSPC = bytes.fromhex("00a06f0a0b00")


def private_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(0xA7A1 + number, ec.SECP256R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(*encoding)[1:]


def pem_of(*certificates: x509.Certificate) -> str:
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates)


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    encoded = [first * 40 + second]
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(0x80 | (number & 0x7F))
        encoded += reversed(digits)
    return _der(0x06, bytes(encoded))


def _member(arc: str, tag: int, content: bytes) -> bytes:
    return _der(0x30, _oid(f"{SGX_EXTENSION}.{arc}") + _der(tag, content))


def _integer(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1)


def sgx_extension(*, fmspc: bytes = FMSPC, cpusvn: bytes = CPUSVN, pcesvn: int = PCESVN) -> bytes:
    """The value of the extension: "SGX PCK Certificate and CRL Profile Specification", "SGX Extensions"."""
    tcb = b"".join(_member(f"2.{n}", 0x02, _integer(svn)) for n, svn in enumerate(cpusvn, 1))
    tcb += _member("2.17", 0x02, _integer(pcesvn)) + _member("2.18", 0x04, cpusvn)
    return _der(
        0x30,
        _member("1", 0x04, bytes(range(16)))
        + _member("2", 0x30, tcb)
        + _member("3", 0x04, bytes(2))
        + _member("4", 0x04, fmspc)
        + _member("5", 0x0A, b"\x01"),
    )


def sgx_report(**changed: bytes) -> bytes:
    """A report body (384 bytes) from its fields; names as in Intel's, lower case."""
    fields = {
        "cpusvn": CPUSVN,
        "miscselect": bytes(4),
        "reserved1": bytes(12),
        "isvextprodid": bytes(range(16)),
        "attributes": bytes.fromhex("0500000000000000e700000000000000"),
        "mrenclave": bytes([0x11]) * 32,
        "reserved2": bytes(32),
        "mrsigner": bytes([0x22]) * 32,
        "reserved3": bytes(32),
        "configid": bytes([0x33]) * 64,
        "isvprodid": (7).to_bytes(2, "little"),
        "isvsvn": (3).to_bytes(2, "little"),
        "configsvn": (9).to_bytes(2, "little"),
        "reserved4": bytes(42),
        "isvfamilyid": bytes([0x44]) * 16,
        "reportdata": bytes(range(64)),
    }
    return _joined(fields, changed, 384)


def td_report(kind: str = "1.0", **changed: bytes) -> bytes:
    """A TD report body: 584 bytes for 1.0, 648 for 1.5, 885 for 1.5ex."""
    fields = {
        "tee_tcb_svn": bytes([5, 1, 3]) + bytes(13),
        "mrseam": bytes([0x51]) * 48,
        "mrsignerseam": bytes(48),
        "seamattributes": bytes(8),
        "tdattributes": bytes.fromhex("0000001000000000"),
        "xfam": bytes.fromhex("e702060000000000"),
        "mrtd": bytes([0x52]) * 48,
        "mrconfigid": bytes([0x53]) * 48,
        "mrowner": bytes([0x54]) * 48,
        "mrownerconfig": bytes([0x55]) * 48,
        **{f"rtmr{n}": bytes([0x60 + n]) * 48 for n in range(4)},
        "reportdata": bytes(range(64)),
    }
    sizes = {"1.0": 584, "1.5": 648, "1.5ex": 885}
    if kind != "1.0":
        fields |= {"tee_tcb_svn_2": bytes([5, 1, 3]) + bytes(13), "mrservicetd": bytes(48)}
    if kind == "1.5ex":
        fields |= {
            "vmid": b"\x07",
            "td_id": bytes([0x71]) * 32,
            "dev_info": bytes([0x72]) * 48,
            "init_servtd_hash": bytes([0x73]) * 48,
            "init_servtd_attributes": bytes([0x74]) * 8,
            "init_cpusvn": bytes([0x75]) * 16,
            "init_tee_tcb_svn": bytes([0x76]) * 16,
            "init_tee_fmspc": bytes([0x77]) * 12,
            "cur_servtd_hash": bytes([0x78]) * 48,
            "cur_servtd_attributes": bytes([0x79]) * 8,
        }
    return _joined(fields, changed, sizes[kind])


def _joined(fields: dict[str, bytes], changed: dict[str, bytes], size: int) -> bytes:
    assert changed.keys() <= fields.keys(), changed.keys() - fields.keys()
    joined = b"".join((fields | changed).values())
    assert len(joined) == size
    return joined


def certification_data(kind: int, content: bytes) -> bytes:
    return struct.pack("<HI", kind, len(content)) + content


@dataclass(kw_only=True)
class DcapAuthority:
    """Root of trust, platform and vendor in one. ``number`` keeps two of them apart."""

    number: int = 0
    start: datetime = NOW - timedelta(days=10)
    end: datetime = NOW + timedelta(days=20)
    certificates_end: datetime = NOW + timedelta(days=3650)
    fmspc: bytes = FMSPC
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(init=False)

    def __post_init__(self) -> None:
        names = ("root", "pck_ca", "pck", "tcb_signer", "attestation")
        self.keys = {name: private_key(10 * self.number + n) for n, name in enumerate(names)}

    def certificate(
        self,
        name: str,
        common_name: str,
        issuer: str,
        issuer_name: str,
        *,
        ca: bool = False,
        extension: bytes | None = None,
        end: datetime | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
            .public_key(self.keys[name].public_key())
            .serial_number(1000 + 10 * self.number + list(self.keys).index(name))
            .not_valid_before(NOW - timedelta(days=1000))
            .not_valid_after(end or self.certificates_end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_key_usage(ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.keys[name].public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.keys[issuer].public_key()), False
            )
        )
        if extension is not None:
            oid = x509.ObjectIdentifier(SGX_EXTENSION)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
        return builder.sign(self.keys[issuer], hashes.SHA256(), ecdsa_deterministic=True)

    @property
    def root_name(self) -> str:
        return f"Test Root {self.number}"

    @cached_property
    def root(self) -> x509.Certificate:
        return self.certificate("root", self.root_name, "root", self.root_name, ca=True)

    @cached_property
    def pck_ca(self) -> x509.Certificate:
        return self.certificate("pck_ca", "Test PCK Platform CA", "root", self.root_name, ca=True)

    @cached_property
    def pck(self) -> x509.Certificate:
        extension = sgx_extension(fmspc=self.fmspc)
        return self.certificate(
            "pck", "Test PCK Certificate", "pck_ca", "Test PCK Platform CA", extension=extension
        )

    @cached_property
    def tcb_signer(self) -> x509.Certificate:
        return self.certificate("tcb_signer", "Test TCB Signing", "root", self.root_name)

    @cached_property
    def anchor(self) -> TrustAnchor:
        digest = hashlib.sha256(der_of(self.root)).hexdigest()
        return TrustAnchor(name=f"test-{self.number}", sha256=digest, simulated=True)

    def crl(self, issuer: str, *revoked: x509.Certificate) -> str:
        """Hex of the DER."""
        name = self.root_name if issuer == "root" else "Test PCK Platform CA"
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .last_update(self.start)
            .next_update(self.end)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.keys[issuer].public_key()), False
            )
        )
        for certificate in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(self.start)
                .build()
            )
        return (
            builder.sign(self.keys[issuer], hashes.SHA256(), ecdsa_deterministic=True)
            .public_bytes(serialization.Encoding.DER)
            .hex()
        )

    def tcb_info(self, tee: int, **changed: Any) -> dict[str, Any]:
        level: dict[str, Any] = {
            "sgxtcbcomponents": [{"svn": svn} for svn in CPUSVN],
            "pcesvn": PCESVN,
        }
        info: dict[str, Any] = {
            "id": "TDX" if tee else "SGX",
            "version": 3,
            "issueDate": f"{self.start:%Y-%m-%dT%H:%M:%SZ}",
            "nextUpdate": f"{self.end:%Y-%m-%dT%H:%M:%SZ}",
            "fmspc": self.fmspc.hex(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 18,
        }
        if tee:
            level["tdxtcbcomponents"] = [{"svn": svn} for svn in (5, 0, 3, *[0] * 13)]
            module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            info["tdxModule"] = module
            info["tdxModuleIdentities"] = [
                {
                    "id": "TDX_01",
                    **module,
                    "tcbLevels": [
                        {"tcb": {"isvsvn": 4}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"}
                    ],
                }
            ]
        info["tcbLevels"] = [{"tcb": level, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"}]
        return info | changed

    def with_status(self, tee: int, status: str, advisories: Sequence[str] = ()) -> dict[str, Any]:
        """The TCB info that gives the platform another status."""
        info = self.tcb_info(tee)
        info["tcbLevels"][0] |= {"tcbStatus": status, "advisoryIDs": list(advisories)}
        return info

    def qe_identity(self, tee: int, **changed: Any) -> dict[str, Any]:
        return {
            "id": "TD_QE" if tee else "QE",
            "version": 2,
            "issueDate": f"{self.start:%Y-%m-%dT%H:%M:%SZ}",
            "nextUpdate": f"{self.end:%Y-%m-%dT%H:%M:%SZ}",
            "tcbEvaluationDataNumber": 18,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": 2 if tee else 1,
            "tcbLevels": [
                {"tcb": {"isvsvn": 8}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"},
                {
                    "tcb": {"isvsvn": 6},
                    "tcbDate": "2021-11-10T00:00:00Z",
                    "tcbStatus": "OutOfDate",
                    "advisoryIDs": ["INTEL-SA-00615"],
                },
            ],
        } | changed

    def collateral(
        self,
        tee: int = SGX,
        *,
        tcb_info: dict[str, Any] | None = None,
        qe_identity: dict[str, Any] | None = None,
        revoked_by_pck_ca: Sequence[x509.Certificate] = (),
        revoked_by_root: Sequence[x509.Certificate] = (),
        **changed: Any,
    ) -> DcapCollateral:
        info = json.dumps(tcb_info or self.tcb_info(tee), separators=(",", ":"))
        identity = json.dumps(qe_identity or self.qe_identity(tee), separators=(",", ":"))
        members: dict[str, Any] = {
            "pck_crl_issuer_chain": pem_of(self.pck_ca, self.root),
            "root_ca_crl": self.crl("root", *revoked_by_root),
            "pck_crl": self.crl("pck_ca", *revoked_by_pck_ca),
            "tcb_info_issuer_chain": pem_of(self.tcb_signer, self.root),
            "tcb_info": info,
            "tcb_info_signature": raw_signature(self.keys["tcb_signer"], info.encode()).hex(),
            "qe_identity_issuer_chain": pem_of(self.tcb_signer, self.root),
            "qe_identity": identity,
            "qe_identity_signature": raw_signature(self.keys["tcb_signer"], identity.encode()).hex(),
        }
        return DcapCollateral(**(members | changed))

    def quote(
        self,
        body: bytes | None = None,
        *,
        version: int = 3,
        tee: int = SGX,
        body_type: int = 3,
        key_type: int = 2,
        certification: bytes | None = None,
        outer: int = 6,
        qe_report: dict[str, bytes] | None = None,
        auth_data: bytes = bytes(range(32)),
        trailing: bytes = b"",
    ) -> bytes:
        """A quote. ``certification`` replaces the certification data, ``outer`` is the type around it since v4."""
        body = sgx_report() if body is None else body
        signed = struct.pack("<HHIHH", version, key_type, tee, 8, PCESVN) + QE_VENDOR + bytes(20)
        signed += (struct.pack("<HI", body_type, len(body)) if version == 5 else b"") + body
        point = public_point(self.keys["attestation"])
        report = sgx_report(
            **{
                "attributes": bytes.fromhex("1500000000000000e700000000000000"),
                "mrsigner": QE_SIGNER,
                "isvprodid": (2 if tee else 1).to_bytes(2, "little"),
                "isvsvn": (8).to_bytes(2, "little"),
                "reportdata": hashlib.sha256(point + auth_data).digest() + bytes(32),
                **(qe_report or {}),
            }
        )
        if certification is None:
            chain = pem_of(self.pck, self.pck_ca, self.root).encode() + b"\0"
            certification = certification_data(5, chain)
        inner = report + raw_signature(self.keys["pck"], report)
        inner += len(auth_data).to_bytes(2, "little") + auth_data + certification
        if version > 3:
            inner = certification_data(outer, inner)
        signature = raw_signature(self.keys["attestation"], signed) + point + inner
        return signed + len(signature).to_bytes(4, "little") + signature + trailing


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def read_sample(path: Path) -> bytes:
    """A real quote; some are kept as hex."""
    raw = path.read_bytes()
    return bytes.fromhex(raw.decode().strip().removeprefix("0x")) if path.suffix in (".hex", ".txt") else raw


def read_collateral(path: Path) -> DcapCollateral:
    return msgspec.json.decode(path.read_bytes(), type=DcapCollateral)


def verify(
    kind: EvidenceFormat,
    quote: bytes,
    *collateral: DcapCollateral,
    anchors: Sequence[TrustAnchor] = (INTEL_SGX,),
    as_of: datetime | int = NOW,
    **more: Any,
) -> Verification:
    """Verify, and see to what every verification has to keep: an order of names, and a remedy with each problem."""
    if isinstance(as_of, int):
        as_of = datetime.fromtimestamp(as_of, UTC)
    verification = kind.verify(
        Evidence(format=kind.name, document=quote),
        anchors=TrustAnchors(tuple(anchors)),
        collateral=Collateral(dcap=collateral),
        as_of=as_of,
        **more,
    )
    names = [check.name for check in verification.checks]
    assert names == [name for name in (*CHECKS, "verification") if name in names]
    assert (overall(verification.checks) is Verdict.PASSED) is (verification.claims is not None)
    if verification.claims is not None:
        assert names == list(CHECKS)
    return verification


def problems(verification: Verification) -> dict[str, str]:
    """The checks that did not pass: name and verdict."""
    return {c.name: str(c.verdict) for c in verification.checks if c.verdict is not Verdict.PASSED}


def claims_of(verification: Verification) -> Claims:
    assert verification.claims is not None, problems(verification)
    return verification.claims


def flipped(data: bytes, position: int, bit: int | None = None) -> bytes:
    """One bit of one byte changed; every byte has its turn, and all bits over the bytes."""
    changed = data[position] ^ (1 << (position % 8 if bit is None else bit))
    return data[:position] + bytes([changed]) + data[position + 1 :]


def accepted_flips(kind: EvidenceFormat, quote: bytes, collateral: DcapCollateral, as_of: int) -> list[int]:
    """The bytes of a quote, up to the end of its signature data, that can be changed unnoticed.

    Not counted: changes of the PEM text that leave every certificate as it is, or hide an issuer that the collateral has
    as well. PEM is how they are carried; what is signed is their DER.
    """
    parsed = parse_quote(quote)
    certificates = read_certificates(parsed.signature.certification.content)
    accepted = []
    for position in range(len(quote) - parsed.trailing):
        changed = flipped(quote, position)
        if verify(kind, changed, collateral, as_of=as_of).claims is None:
            continue
        left = read_certificates(parse_quote(changed).signature.certification.content)
        if not set(left) <= set(certificates):
            accepted.append(position)
    return accepted
