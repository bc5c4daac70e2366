"""AMD SEV-SNP: attestation reports of versions 2 to 5, signed by a VCEK or VLEK of Milan, Genoa or Turin.

Parse (:mod:`.report`, :mod:`.certificates`), verify (:mod:`.verify`), claims (:mod:`.claims`).
"""

from avalon_core.attestation.snp.products import Product
from avalon_core.attestation.snp.report import SigningKey, SnpReport, looks_like_report, parse_report
from avalon_core.attestation.snp.verify import SNP, SnpFormat

__all__ = ["SNP", "Product", "SigningKey", "SnpFormat", "SnpReport", "looks_like_report", "parse_report"]
