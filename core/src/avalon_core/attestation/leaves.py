"""What the certificate of a signing key must say of itself, for formats whose vendors issue such certificates."""

from cryptography import x509

from avalon_core.attestation.chains import UNREADABLE_EXTENSIONS
from avalon_core.attestation.checks import Check, decided


def check_signing_leaf(leaf: x509.Certificate, *, source: str) -> Check:
    """Check that the certificate is one for digital signatures and no authority (RFC 5280, 4.2.1.3 and 4.2.1.9).

    A chain says who issued a certificate; this says that its key was given out to sign evidence, not certificates.
    """
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        ok = usage.digital_signature and not constraints.ca and constraints.path_length is None
        found = f"digital signature: {usage.digital_signature}, authority: {constraints.ca}"
    except (x509.ExtensionNotFound, *UNREADABLE_EXTENSIONS) as exc:
        ok, found = False, f"its extensions do not say: {exc}"
    return decided(
        "leaf",
        ok,
        expected="a certificate for digital signatures that is no authority",
        found=found,
        source=source,
        remedy="The key that signed was not given out for this purpose: do not trust the evidence.",
    )
