"""A quote and all that it is judged by."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from avalon_core.attestation.checks import Check, passed
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.dcap.quotes import BodyType, Quote
from avalon_core.attestation.dcap.statements import Statements
from avalon_core.attestation.roots import TrustAnchors


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A quote and all that it is judged by."""

    quote: Quote
    described: str
    anchors: TrustAnchors
    collateral: Collateral
    as_of: datetime
    grace: timedelta
    attribute_problems: tuple[str, ...]
    statements: tuple[Statements, ...]
    """The entries of the collateral that can be read."""

    unreadable: tuple[str, ...]
    """Why the others cannot."""

    @property
    def tee(self) -> str:
        """As in TCB info."""
        return "SGX" if self.quote.body_type is BodyType.SGX_REPORT else "TDX"

    def time_inside(self, statements: Statements) -> int | None:
        """Unix seconds inside the collateral's time: ``as_of``, within the grace its last second, beyond it None."""
        at = int(self.as_of.timestamp())
        if statements.start <= at < statements.end:
            return at
        late_by = at - statements.end
        if statements.start < statements.end and 0 <= late_by < self.grace.total_seconds():
            return statements.end - 1
        return None

    def signers_valid(self, statements: Statements) -> bool:
        """Whether the signers' certificates are valid at the time of the verdict: they have no grace."""
        return all(
            one.not_valid_before_utc <= self.as_of <= one.not_valid_after_utc
            for one in (*statements.tcb_chain, *statements.qe_chain)
        )

    def grace_note(self, statements: Statements) -> str:
        """What to say where the collateral has ended and its grace has not."""
        if int(self.as_of.timestamp()) < statements.end:
            return ""
        return f"; ended, taken within a grace of {self.grace}: verified as of its last second"

    def format_passed(self) -> Check:
        """The check *format* of a quote that could be read."""
        trailing = f", {self.quote.trailing} bytes after it ignored" if self.quote.trailing else ""
        kind = self.quote.signature.certification.type
        return passed(
            "format",
            expected="a quote that can be verified here",
            found=f"{self.described}, certification data of type {int(kind)}{trailing}",
        )
