"""What a verified SNP report says, in the vocabulary of all formats.

Where each field goes: MEASUREMENT ``measurement``, REPORT_DATA ``report_data``, HOST_DATA ``config_id``, FAMILY_ID
``family_id``, IMAGE_ID ``ext_product_id``, GUEST_SVN ``svn``, ID_KEY_DIGEST ``owner``, AUTHOR_KEY_DIGEST ``signer``
(these two only where the guest was launched with them), POLICY.DEBUG ``debug``, CHIP_ID ``chip_id``.

``tcb`` has the security versions as decimal texts: of REPORTED_TCB under their names (``bootloader``, ``tee``, ``snp``,
``microcode``, and ``fmc`` on Turin), which is what the signing key was derived for, and of CURRENT_TCB, COMMITTED_TCB
and LAUNCH_TCB with ``current_``, ``committed_`` and ``launch_`` before them.

``attributes`` has all else: bits as ``yes`` and ``no``, vectors and identities as hex. ``revocation`` tells whether a CRL
of AMD was checked: it is checked wherever one is given, and a policy can demand it.

``tcb_status`` is None: AMD publishes no judgement of a platform's state; minimums of ``tcb`` take its place.
"""

from collections.abc import Mapping

from avalon_core.attestation.claims import Claims, Tee
from avalon_core.attestation.roots import TrustAnchor
from avalon_core.attestation.snp.certificates import KeyCertificate
from avalon_core.attestation.snp.products import Product, decode_tcb
from avalon_core.attestation.snp.report import SnpReport

REVOCATION = "revocation"
REVOCATION_CHECKED = "checked"
REVOCATION_NOT_CHECKED = "not checked: no CRL given"


def claims_of(
    report: SnpReport, key: KeyCertificate, anchor: TrustAnchor, *, expires: int, revocation: str
) -> Claims:
    """The claims of a report whose signature and certificates held.

    Args:
        report: verified.
        key: the certificate of the key that signed it.
        anchor: the root in which its chain ends.
        expires: Unix seconds of the earliest end of certificates and CRLs.
        revocation: what is to be said about it, as in ``attributes``.
    """
    return Claims(
        tee=Tee.SNP,
        format=f"SNP report v{report.version}",
        root=anchor.name,
        simulated=anchor.simulated,
        measurement=report.measurement.hex(),
        report_data=report.report_data,
        debug=report.policy_bits["debug"],
        signer=report.author_key_digest.hex() if report.author_key_enabled else None,
        svn=report.guest_svn,
        tcb=_tcb(report, key.product),
        chip_id=_chip_id(report, key),
        config_id=report.host_data.hex(),
        family_id=report.family_id.hex(),
        ext_product_id=report.image_id.hex(),
        owner=report.id_key_digest.hex() if any(report.id_key_digest) else None,
        attributes=_attributes(report, key) | {REVOCATION: revocation},
        collateral_expires=expires,
    )


def _chip_id(report: SnpReport, key: KeyCertificate) -> str | None:
    """Of the report; where the platform masks it there, of the VCEK's certificate, which tells it all the same."""
    known = key.chip_id if report.chip_id_masked else report.chip_id
    return None if known is None else known.hex()


def _tcb(report: SnpReport, product: Product) -> Mapping[str, str]:
    versions = {
        "": report.reported_tcb,
        "current_": report.current_tcb,
        "committed_": report.committed_tcb,
        "launch_": report.launch_tcb,
    }
    return {
        f"{prefix}{name}": str(level)
        for prefix, raw in versions.items()
        for name, level in decode_tcb(raw, product).items()
    }


def _attributes(report: SnpReport, key: KeyCertificate) -> dict[str, str]:
    attributes = {
        "product": key.product.value,
        "product_name": key.product_name,
        "signing_key": key.kind.name.lower(),
        "vmpl": str(report.vmpl),
        "policy": f"{report.policy:016x}",
        "policy_abi": f"{report.policy >> 8 & 0xFF}.{report.policy & 0xFF}",
        "platform_info": f"{report.platform_info:016x}",
        "unknown_bits": _yes(report.has_unknown_bits),
        "chip_id_masked": _yes(report.chip_id_masked),
        "firmware": _firmware(report.current_firmware),
        "committed_firmware": _firmware(report.committed_firmware),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
    }
    attributes |= {name: _yes(value) for name, value in report.policy_bits.items()}
    attributes |= {name: _yes(value) for name, value in report.platform_bits.items()}
    if key.csp_id is not None:
        attributes["csp_id"] = key.csp_id
    if report.cpuid is not None:
        family, model, stepping = report.cpuid
        attributes |= {
            "cpuid_family": f"{family:02x}",
            "cpuid_model": f"{model:02x}",
            "cpuid_stepping": f"{stepping:02x}",
        }
    if report.mitigation_vectors is not None:
        launch, current = report.mitigation_vectors
        attributes |= {"launch_mit_vector": f"{launch:016x}", "current_mit_vector": f"{current:016x}"}
    return attributes


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _firmware(version: tuple[int, int, int]) -> str:
    return ".".join(str(part) for part in version)
