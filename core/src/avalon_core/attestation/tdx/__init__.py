"""Quotes of trust domains (TDX), of versions 4 and 5."""

from avalon_core.attestation.tdx.format import TdxFormat

TDX = TdxFormat()

__all__ = ["TDX", "TdxFormat"]
