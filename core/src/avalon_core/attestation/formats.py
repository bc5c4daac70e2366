"""The kinds of evidence that can be verified here, filled in one place.

What is not in the list cannot be checked, and what cannot be checked is refused.
"""

from collections.abc import Mapping

from avalon_core.attestation.evidence import EvidenceFormat
from avalon_core.errors import EvidenceError

_ALL: tuple[EvidenceFormat, ...] = ()

FORMATS: Mapping[str, EvidenceFormat] = {known.name: known for known in _ALL}
"""By name."""


def format_named(name: str) -> EvidenceFormat:
    """The format of that name.

    Raises:
        EvidenceError: none is known.
    """
    known = FORMATS.get(name)
    if known is None:
        raise EvidenceError(
            f"unknown kind of evidence: got {name[:40]!r}, expected one of {', '.join(FORMATS)}"
        )
    return known
