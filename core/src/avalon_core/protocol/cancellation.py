"""WorkOrderCancel, a method of our own: its requester withdraws an order that is not finished."""

from typing import Annotated

import msgspec
from msgspec import Meta

from avalon_core.protocol.ids import HEX_ID, Base64Str, HexStr, RequesterId, WorkOrderId
from avalon_core.protocol.limits import MAX_SIGNATURE_CHARS


class WorkOrderCancelParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """The params of WorkOrderCancel. Which of the proofs is needed: :mod:`avalon_core.crypto.cancellation`."""

    work_order_id: Annotated[WorkOrderId, HEX_ID]
    requester_id: Annotated[RequesterId, HEX_ID]
    """That of the order, in the very spelling."""

    encrypted_request_hash: (
        Annotated[HexStr, Meta(max_length=256, pattern=r"^([0-9a-fA-F]{2})*\Z")] | None
    ) = None
    """That of the order, in the very spelling: what shows that an unsigned order is the caller's."""

    signature: Annotated[Base64Str, Meta(max_length=MAX_SIGNATURE_CHARS)] | None = None
    """Base64 of ECDSA in DER by the key that signed the order."""
