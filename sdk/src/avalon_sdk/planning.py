"""What is wanted of an order, checked before anything is sent: from the caller's arguments to a plan that can be
sealed, and sealed anew under a fresh id.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict
from urllib.parse import urlsplit

from avalon_core.crypto.dialects import AVALON, DIALECTS, EEA
from avalon_core.crypto.orders import Item, OrderDraft
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.ids import HexStr, RequesterId, WorkerId, WorkOrderId, workload_id_of
from avalon_core.protocol.limits import (
    MAX_DATA_CHARS,
    MAX_ID_HEX_DIGITS,
    MAX_ITEM_INDEX,
    MAX_ITEMS,
    MAX_URI_CHARS,
)
from avalon_core.protocol.orders import CLEAR_TEXT_KEY, FORMAT_HPKE, InDataItem, OutDataItem
from avalon_sdk.errors import BadRequest
from avalon_sdk.journal import OrderJournal
from avalon_sdk.owners import OwnedInput, OwnedOutput
from avalon_sdk.progress import Observer
from avalon_sdk.workers import TrustedWorker

Mode = Literal["wait", "poll", "sync"]
"""``wait``: asynchronous, the service holds each call while it can. ``poll``: asynchronous, asked now and again.
``sync``: the service answers with the result within the time, or cancels the order."""

SUITES = (FORMAT_HPKE, AVALON.name, EEA.name)
"""Ours first. The other two exist for workers that speak nothing else."""

OrderItem = str | bytes | OwnedInput
"""An input: a text (sent as UTF-8), bytes, or what somebody else sealed to the worker (:mod:`avalon_sdk.owners`)."""

MAX_ITEM_BYTES = MAX_DATA_CHARS // 4 * 3 - 64
"""An item's plaintext: what fits with iv and tag."""

DEFAULT_TIMEOUT = 30.0
_ID_BYTES = 32


class OrderOptions(TypedDict, total=False):
    """What may be said about an order besides its workload and items."""

    worker: TrustedWorker | str | None
    """The worker, or its name. None: the first active one whose record passes."""

    suite: str
    """``~avalon-hpke-1`` (default), ``avalon`` or ``eea-1.1``. Never anything else than what was asked for."""

    timeout: float
    """Seconds for the whole of it; 30 by default."""

    mode: Mode
    """How to wait; ``wait`` by default."""

    requester_id: str | None
    """Hex, up to 32 bytes. None: the client's own, random for each client."""

    signer: SigningKey | None
    """Signs the order, where the service knows this requester by a key."""

    on_progress: Observer | None
    """Is told each step, and where a long order stands."""

    clear: Collection[int]
    """Indices of inputs that travel in clear text: everybody on the way reads them. None by default."""

    outputs: Mapping[int, Literal["clear"] | OwnedOutput]
    """How outputs of these indices come back: in clear text, or under a key of somebody else's, who alone can open
    them. Outputs that are not named come back sealed to this requester."""

    result_uri: str | None
    """The service posts the (sealed) result there, too. It must be able to reach the address."""

    notify_uri: str | None
    """The service posts there that the order is finished."""

    journal: OrderJournal | None
    """Keep the order there before it is sent, so that another process can wait for it and open its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPlan:
    """What is wanted, before it has an id and is sealed: enough to seal it anew."""

    workload: str
    inputs: Sequence[Item] = field(repr=False)
    owned_inputs: Sequence[InDataItem] = field(default=(), repr=False)
    clear: frozenset[int] = frozenset()
    out_data: Sequence[OutDataItem] = field(default=(), repr=False)
    suite: str
    mode: Mode
    requester_id: RequesterId
    result_uri: str | None = None
    notify_uri: str | None = None
    signer: SigningKey | None = field(default=None, repr=False)
    on_progress: Observer | None = field(default=None, repr=False)
    journal: OrderJournal | None = field(default=None, repr=False)

    @property
    def input_bytes(self) -> int:
        """Of plaintext; what others own is not counted."""
        return sum(len(item.data) for item in self.inputs)

    def draft(self, worker_id: WorkerId, *, response_timeout_msecs: int = 0) -> OrderDraft:
        """The order under a fresh id, for this worker."""
        return OrderDraft(
            work_order_id=WorkOrderId(random_id()),
            worker_id=worker_id,
            workload_id=workload_id_of(self.workload),
            requester_id=self.requester_id,
            requester_nonce=HexStr(random_id()),
            inputs=self.inputs,
            owned_inputs=self.owned_inputs,
            clear=self.clear,
            out_data=self.out_data,
            response_timeout_msecs=response_timeout_msecs,
            result_uri=self.result_uri,
            notify_uri=self.notify_uri,
            signer=self.signer,
        )


def plan_order(
    workload: str, items: Sequence[OrderItem], options: OrderOptions, *, requester_id: RequesterId
) -> OrderPlan:
    """Check the caller's arguments.

    Raises:
        BadRequest: naming what is wrong with them.
    """
    suite = options.get("suite", FORMAT_HPKE)
    if suite not in DIALECTS:
        raise BadRequest(f"suite: got {suite!r}, expected one of {', '.join(SUITES)}")
    mode = options.get("mode", "wait")
    if mode not in ("wait", "poll", "sync"):
        raise BadRequest(f"mode: got {mode!r}, expected 'wait', 'poll' or 'sync'")
    if not workload or len(workload_id_of(workload)) > MAX_ID_HEX_DIGITS:
        raise BadRequest(
            f"workload: got {workload!r}, expected a name of 1 to {MAX_ID_HEX_DIGITS // 2} bytes"
        )
    inputs, owned = _inputs(items, suite)
    out_data = _templates(options.get("outputs", {}), suite)
    result_uri = _uri("result_uri", options.get("result_uri"))
    notify_uri = _uri("notify_uri", options.get("notify_uri"))
    if mode == "sync" and (result_uri or notify_uri):
        raise BadRequest("result_uri, notify_uri: got mode 'sync', expected 'wait' or 'poll'")
    return OrderPlan(
        workload=workload,
        inputs=inputs,
        owned_inputs=owned,
        clear=_clear(options.get("clear", ()), inputs),
        out_data=out_data,
        suite=suite,
        mode=mode,
        requester_id=require_requester_id(options.get("requester_id")) or requester_id,
        result_uri=result_uri,
        notify_uri=notify_uri,
        signer=options.get("signer"),
        on_progress=options.get("on_progress"),
        journal=options.get("journal"),
    )


def require_requester_id(text: str | None) -> RequesterId | None:
    """The id, where it is one.

    Raises:
        BadRequest: not hex of up to 32 bytes.
    """
    return None if text is None else RequesterId(require_hex_id(text, "requester_id"))


def require_hex_id(text: str, what: str) -> str:
    """An id as the wire wants it.

    Raises:
        BadRequest: not hex of up to 32 bytes.
    """
    digits = text.removeprefix("0x")
    if not digits or len(digits) > MAX_ID_HEX_DIGITS or set(digits) - set("0123456789abcdefABCDEF"):
        raise BadRequest(f"{what}: expected hex, up to 32 bytes")
    return text


def random_id() -> str:
    """A fresh id of 32 bytes."""
    return os.urandom(_ID_BYTES).hex()


def _inputs(items: Sequence[OrderItem], suite: str) -> tuple[list[Item], list[InDataItem]]:
    if isinstance(items, str | bytes):
        raise BadRequest("items: got one text, expected a list of them: items=['text']")
    if len(items) > MAX_ITEMS:
        raise BadRequest(f"items: got {len(items)}, expected at most {MAX_ITEMS}")
    inputs: list[Item] = []
    owned: list[InDataItem] = []
    for index, item in enumerate(items):
        if isinstance(item, OwnedInput):
            if suite != FORMAT_HPKE:
                raise BadRequest(f"items: item {index} is its owner's: expected the suite {FORMAT_HPKE}")
            owned.append(item.as_item(index))
            continue
        if not isinstance(item, str | bytes):
            raise BadRequest(f"items: item {index} is {type(item).__name__}, expected str or bytes")
        data = item.encode() if isinstance(item, str) else item
        if len(data) > MAX_ITEM_BYTES:
            raise BadRequest(
                f"items: item {index} has {len(data)} bytes, expected at most {MAX_ITEM_BYTES}: split it"
            )
        inputs.append(Item(index=index, data=data))
    return inputs, owned


def _clear(indices: Collection[int], inputs: Sequence[Item]) -> frozenset[int]:
    known = {item.index for item in inputs}
    if wrong := set(indices) - known:
        raise BadRequest(f"clear: got {min(wrong)}, expected indices of inputs that nobody else owns")
    return frozenset(indices)


def _templates(outputs: Mapping[int, str | OwnedOutput], suite: str) -> list[OutDataItem]:
    if len(outputs) > MAX_ITEMS:
        raise BadRequest(f"outputs: got {len(outputs)}, expected at most {MAX_ITEMS}")
    if outputs and suite != FORMAT_HPKE:
        # The dialects do not protect what a template says, or not against all: see docs/protocol.md.
        raise BadRequest(
            f"outputs: expected the suite {FORMAT_HPKE}: the others do not protect how outputs travel"
        )
    templates = []
    for index, how in sorted(outputs.items()):
        if not 0 <= index <= MAX_ITEM_INDEX:
            raise BadRequest(f"outputs: got index {index}, expected 0 to {MAX_ITEM_INDEX}")
        if how != "clear" and not isinstance(how, OwnedOutput):
            raise BadRequest(
                f"outputs: got {type(how).__name__} for {index}, expected 'clear' or an OwnedOutput"
            )
        key = how.wrapped_key if isinstance(how, OwnedOutput) else CLEAR_TEXT_KEY
        templates.append(OutDataItem(index=index, encrypted_data_encryption_key=key))
    return templates


def _uri(name: str, uri: str | None) -> str | None:
    if not uri:
        return None
    try:
        parts = urlsplit(uri)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable or len(uri) > MAX_URI_CHARS:
        raise BadRequest(f"{name}: expected an http or https address of at most {MAX_URI_CHARS} characters")
    return uri
