"""The TPM platform: a machine whose TPM 2.0 has recorded what was started, from the firmware on.

What that protects: the keys of a worker open only on this very TPM, and only while its PCRs say that the same software
was started; and requesters see which. What it does not: memory. **Whoever is root on the machine, or can attach to its
bus or its hypervisor, reads everything.** See docs/attestation/tpm.md.

Evidence is a quote with the PCR values and event logs (:mod:`avalon_core.attestation.tpm`). Before it is given out it is
verified here, by the code that requesters use, against the root that the configured chain ends in: what they would
refuse for the configuration's sake is refused at the start, with the reason.

Sealing is bound to the PCRs (unlike the simulated platform's, which is bound to the signer): after an update of
firmware, boot loader or kernel that is in a selected PCR, keys do not open any more, and the worker needs new ones.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avalon_core.attestation import proof_data
from avalon_core.attestation.chains import digest_of, load_certificate, load_pem_chain, name_of
from avalon_core.attestation.checks import Check, Verdict
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.evidence import MAX_ATTACHMENT_BYTES, Evidence
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.tpm import TPM, encode_pcrs, encode_selection, pcr_policy_digest
from avalon_core.crypto import aead
from avalon_core.errors import DecryptionFailed, EvidenceError
from avalon_core.protocol.encodings import encode_fields
from avalon_enclave.errors import SealingFailed, StartRefused
from avalon_enclave.platforms.tpm_config import TpmConfig, read_auth, read_config, read_file
from avalon_enclave.platforms.tpm_device import (
    PT_FIRMWARE_VERSION,
    PT_MANUFACTURER,
    PT_MAX_DIGEST,
    Tpm,
    TpmFailed,
    open_tpm,
)

REPORT_DATA_BYTES = 64
SHORT_BYTES = 32
_ATTEMPTS = 3
"""To quote the PCRs that were read: somebody may extend one between."""

_MAX_PEM_BYTES = 256 * 1024
_MAX_CRL_BYTES = 2 * 1024 * 1024
_FORMAT = b"avalon tpm seal 1\0"
_HASH_NAME_BYTES = 2
"""A TPMT_HA: the algorithm, then the digest. TPM2B_DATA takes one of the TPM's longest digest."""


class TpmPlatform:
    """See the module. Satisfies :class:`avalon_enclave.platforms.base.Platform`."""

    name = "tpm"
    simulated = False

    def __init__(self, config: TpmConfig, *, role: str) -> None:
        """Look at the TPM and the configured files.

        Raises:
            StartRefused: the library, the TPM, a key, a certificate or a log is not there, or they do not fit.
        """
        self._config = config
        self._role = role
        self._lock = threading.Lock()
        self._certificates, self._findings = self._look()
        self._collateral = Collateral(
            crls=tuple(read_file(path, "crls", most=_MAX_CRL_BYTES) for path in config.crls)
        )

    @property
    def findings(self) -> Mapping[str, str]:
        """What was found at the start, for the operator."""
        return self._findings

    def measurement(self) -> str:
        """Hex of the TPM2_PolicyPCR digest over the selected PCRs as they are now."""
        with self._lock, _starting(), open_tpm(self._config.tcti) as tpm:
            return self._policy_digest(tpm).hex()

    def issue_evidence(self, report_data: bytes) -> tuple[str, Any]:
        evidence = self.quote(report_data)
        self._check(evidence)
        return proof_data.encode(evidence, self._collateral)

    def quote(self, report_data: bytes) -> Evidence:
        """A quote with all that belongs to it, not verified yet.

        Report data whose last 32 bytes are zero, as ours, is quoted without them; any other as it is, where the TPM
        takes 64 bytes: those do that know SHA-512.

        Raises:
            StartRefused: the TPM refuses; the report data is too long for it; a PCR changes all the time.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report data of {len(report_data)} bytes, expected {REPORT_DATA_BYTES}")
        short = not any(report_data[SHORT_BYTES:])
        with self._lock, _starting(), open_tpm(self._config.tcti) as tpm:
            longest = tpm.properties().get(PT_MAX_DIGEST, SHORT_BYTES) + _HASH_NAME_BYTES
            if not short and longest < REPORT_DATA_BYTES:
                raise StartRefused(
                    f"this TPM quotes at most {longest} bytes, and the report data has {REPORT_DATA_BYTES}: "
                    "use a SHA-256 digest and zeros"
                )
            return self._quote(tpm, report_data[:SHORT_BYTES] if short else report_data)

    def seal(self, secret: bytes) -> bytes:
        """Encrypt under a fresh key, which the TPM seals under the selected PCRs as they are now."""
        key, nonce = os.urandom(aead.KEY_BYTES), os.urandom(aead.NONCE_BYTES)
        with self._lock, _starting(), open_tpm(self._config.tcti) as tpm:
            public, private = tpm.seal(key, self._policy_digest(tpm), self._owner_auth())
        return (
            _FORMAT + _sized(public) + _sized(private) + nonce + aead.seal(self._derive(key), nonce, secret)
        )

    def unseal(self, sealed: bytes) -> bytes:
        public, private, nonce, ciphertext = _split(sealed)
        try:
            with self._lock, open_tpm(self._config.tcti) as tpm:
                key = tpm.unseal(public, private, self._config.selection, self._owner_auth())
            return aead.open_(self._derive(key), nonce, ciphertext)
        except TpmFailed as exc:
            raise SealingFailed(
                f"the TPM does not open the blob ({exc.message}): it was sealed by another TPM, while other software "
                "was started or other PCRs were selected, or it was changed"
            ) from exc
        except (DecryptionFailed, ValueError):
            raise SealingFailed("the blob was sealed for another role, or was changed") from None

    def _look(self) -> tuple[tuple[bytes, ...], Mapping[str, str]]:
        config = self._config
        with _starting(), open_tpm(config.tcti) as tpm:
            key = tpm.attestation_key(config.attestation_key, read_auth(config.endorsement_auth_file))
            public, name = tpm.public_key(key)
            certificates = _read_certificates(config, tpm)
            properties = tpm.properties()
            measurement = self._policy_digest(tpm).hex()
        leaf = load_certificate(certificates[0])
        if (
            leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip()
            != public.strip()
        ):
            raise StartRefused(
                f"certificates: the first, of {name_of(leaf)!r}, is not that of the attestation key "
                f"{config.attestation_key} of this TPM, whose public key is:\n{public.decode()}"
            )
        return certificates, {
            "tcti": config.tcti,
            "manufacturer": _manufacturer(properties.get(PT_MANUFACTURER, 0)),
            "firmware": f"{properties.get(PT_FIRMWARE_VERSION, 0):08x}",
            "attestation_key": config.attestation_key,
            "attestation_key_name": name.hex(),
            "certificate": name_of(leaf),
            "root": digest_of(load_certificate(certificates[-1])),
            "pcrs": "+".join(f"{entry.bank}:{','.join(map(str, entry.pcrs))}" for entry in config.selection),
            "event_logs": ",".join(config.event_logs) or "none",
            "measurement": measurement,
        }

    def _quote(self, tpm: Tpm, qualifying: bytes) -> Evidence:
        config = self._config
        key = tpm.attestation_key(config.attestation_key, read_auth(config.endorsement_auth_file))
        for _ in range(_ATTEMPTS):
            values = tpm.read_pcrs(config.selection)
            document, signature = tpm.quote(key, config.selection, qualifying)
            if values == tpm.read_pcrs(config.selection):
                break
        else:
            raise StartRefused("a selected PCR changes all the time: take it out of pcrs")
        logs = {
            name: read_file(path, name, most=MAX_ATTACHMENT_BYTES) for name, path in config.event_logs.items()
        }
        return Evidence(
            format=TPM.name,
            document=document,
            signature=signature,
            certificates=self._certificates,
            attachments={"pcrs": encode_pcrs(values)} | logs,
        )

    def _check(self, evidence: Evidence) -> None:
        """Verify as a requester would who trusts the configured root."""
        root = load_certificate(self._certificates[-1])
        verification = TPM.verify(
            evidence,
            anchors=TrustAnchors((TrustAnchor(name="configured", sha256=digest_of(root)),)),
            collateral=self._collateral,
            as_of=datetime.now(UTC),
        )
        for check in verification.checks:
            if check.verdict is not Verdict.PASSED and not _is_missing_crl(check):
                raise StartRefused(
                    f"requesters would refuse this evidence: {check.name} {check.verdict}: got {check.found}, "
                    f"expected {check.expected}. {check.remedy}"
                )

    def _policy_digest(self, tpm: Tpm) -> bytes:
        selection = self._config.selection
        values = tpm.read_pcrs(selection)
        concatenated = b"".join(values[entry.bank][pcr] for entry in selection for pcr in entry.pcrs)
        return pcr_policy_digest(encode_selection(selection), concatenated)

    def _owner_auth(self) -> bytes:
        return read_auth(self._config.owner_auth_file)

    def _derive(self, key: bytes) -> bytes:
        """The TPM does not know of roles; the key does."""
        info = _FORMAT + encode_fields(self._role)
        return HKDF(algorithm=hashes.SHA256(), length=aead.KEY_BYTES, salt=None, info=info).derive(key)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """What the TPM refuses here keeps the enclave from starting."""
    try:
        yield
    except (TpmFailed, EvidenceError) as exc:
        raise StartRefused(f"the platform tpm: {exc.message}") from exc


def _is_missing_crl(check: Check) -> bool:
    """Requesters may have it; that it is missing here is no reason not to start."""
    return check.name == "revocation" and check.verdict is Verdict.COULD_NOT_CHECK


def _read_certificates(config: TpmConfig, tpm: Tpm) -> tuple[bytes, ...]:
    certificates = [] if config.certificate_nv is None else [_first_der(tpm.read_nv(config.certificate_nv))]
    for path in config.certificates:
        raw = read_file(path, "certificates", most=_MAX_PEM_BYTES)
        chain = load_pem_chain(raw) if raw.lstrip().startswith(b"-----BEGIN") else (load_certificate(raw),)
        certificates += [certificate.public_bytes(Encoding.DER) for certificate in chain]
    return tuple(certificates)


def _first_der(data: bytes) -> bytes:
    """The certificate at the start of an NV index, which may be larger than it."""
    if data[:2] != b"\x30\x82":
        raise TpmFailed("certificate_nv: the NV index holds no certificate in DER")
    return data[: 4 + int.from_bytes(data[2:4], "big")]


def _manufacturer(value: int) -> str:
    text = value.to_bytes(4, "big").rstrip(b"\0 ").decode("ascii", errors="replace")
    return text if text.isprintable() else f"{value:08x}"


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(2, "big") + part


def _split(sealed: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    if not sealed.startswith(_FORMAT):
        raise SealingFailed("the blob is not one that a TPM platform sealed")
    parts, rest = [], sealed[len(_FORMAT) :]
    for _ in range(2):
        size = int.from_bytes(rest[:2], "big")
        parts.append(rest[2 : 2 + size])
        rest = rest[2 + size :]
    if len(rest) < aead.NONCE_BYTES + aead.TAG_BYTES:
        raise SealingFailed("the blob is cut off")
    return parts[0], parts[1], rest[: aead.NONCE_BYTES], rest[aead.NONCE_BYTES :]


def describe_key(config: TpmConfig) -> str:
    """The public attestation key (PEM) and its name, for the authority that is to certify it.

    Raises:
        StartRefused: the library, the TPM or the key is not there.
    """
    with _starting(), open_tpm(config.tcti) as tpm:
        key = tpm.attestation_key(config.attestation_key, read_auth(config.endorsement_auth_file))
        public, name = tpm.public_key(key)
    return f"{public.decode()}name {name.hex()}\n"


if __name__ == "__main__":
    # python -m avalon_enclave.platforms.tpm CONFIG
    try:
        sys.stdout.write(describe_key(read_config(Path(sys.argv[1]))))
    except (StartRefused, IndexError) as exc:
        sys.exit(exc.message if isinstance(exc, StartRefused) else "usage: tpm CONFIG")
