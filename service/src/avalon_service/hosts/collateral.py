"""Adds to a worker's record what the vendor publishes about its machine, so that requesters need no network to appraise it.

The SDK's client fetches and caches; nothing that it brings is trusted here or by requesters: all of it is signed by the vendor.
"""

from __future__ import annotations

import logging

import msgspec

from avalon_core.attestation.bundles import merged
from avalon_core.attestation.proof_data import decode, encode
from avalon_core.errors import AvalonError
from avalon_core.protocol.workers import decode_details
from avalon_sdk.collateral import CollateralClient

log = logging.getLogger(__name__)

_FETCH_SECONDS = 60.0


class VendorCollateral:
    """Satisfies :class:`avalon_service.hosts.evidence.CollateralSource`."""

    def __init__(self, client: CollateralClient) -> None:
        self._client = client

    async def add_to(self, details: bytes) -> bytes:
        try:
            read = decode_details(details)
            data = read.worker_type_data
            evidence, brought = decode(data.proof_data_type, data.proof_data)
            fetched = await self._client.prefetch(evidence, timeout=_FETCH_SECONDS)
            for problem in fetched.problems:
                log.warning("collateral is missing from the worker's record reason=%s", problem)
            _, proof_data = encode(evidence, merged((brought, fetched.collateral)))
        except AvalonError as exc:
            log.warning("the worker's record goes without collateral reason=%s", exc)
            return details
        return msgspec.json.encode(
            msgspec.structs.replace(
                read, worker_type_data=msgspec.structs.replace(data, proof_data=proof_data)
            )
        )
