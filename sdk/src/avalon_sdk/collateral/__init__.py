"""Collateral: what vendors publish about platforms, fetched, cached and carried. Verdicts are core's, and need no network.

    async with CollateralClient(cache=CollateralCache()) as client:
        fetched = await client.prefetch(evidence)
    report = appraise(evidence, policy, collateral=fetched.collateral, as_of=datetime.now(UTC))

Nothing that is fetched is trusted: every statement is signed by its vendor, and the verdict verifies that each time.
See docs/attestation/collateral.md.
"""

from avalon_sdk.collateral.asking import Origin, Piece
from avalon_sdk.collateral.bundle_files import Imported, Importer, read_bundle, write_bundle
from avalon_sdk.collateral.cache import CachedAnswer, CollateralCache, default_directory
from avalon_sdk.collateral.errors import (
    BadCollateral,
    CacheUnusable,
    NoSuchCollateral,
    NotCached,
    VendorBusy,
    VendorUnreachable,
)
from avalon_sdk.collateral.expiry import Ending, endings, expiring
from avalon_sdk.collateral.fetching import CollateralClient, Fetched
from avalon_sdk.collateral.needs import DcapNeed, Needs, SnpNeed, needs_of
from avalon_sdk.collateral.settings import CollateralSettings

__all__ = [
    "BadCollateral",
    "CacheUnusable",
    "CachedAnswer",
    "CollateralCache",
    "CollateralClient",
    "CollateralSettings",
    "DcapNeed",
    "Ending",
    "Fetched",
    "Imported",
    "Importer",
    "Needs",
    "NoSuchCollateral",
    "NotCached",
    "Origin",
    "Piece",
    "SnpNeed",
    "VendorBusy",
    "VendorUnreachable",
    "default_directory",
    "endings",
    "expiring",
    "needs_of",
    "read_bundle",
    "write_bundle",
]
