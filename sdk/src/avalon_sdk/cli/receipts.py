"""``avalon receipt``: create, show, verify, update and list receipts."""

from pathlib import Path
from typing import Any

from avalon_core.protocol.receipts import ReceiptStatus
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.kept import Asked
from avalon_sdk.cli.output import remark, show, show_json
from avalon_sdk.cli.trusting import open_client, read_key
from avalon_sdk.errors import BadRequest, OrderFailed, OrderRefused
from avalon_sdk.orders import OrderHandle
from avalon_sdk.receipts import Receipt, ReceiptUpdate, status_name


async def create(asked: Asked, *, key: Path, worker_service_id: str | None) -> ExitCode:
    """Create the receipt of an order of the journal."""
    entry = asked.required_entry()
    signer = read_key(key)
    async with asked.open_client(entry) as client:
        handle = client.resume(entry.saved)
        receipt = await client.create_receipt(
            handle, signer, worker_service_id=worker_service_id, timeout=asked.timeout
        )
    _show(receipt, as_json=asked.as_json)
    return ExitCode.OK


async def display(asked: Asked, *, key: Path | None) -> ExitCode:
    """Print a receipt and its updates, every signature verified."""
    entry = asked.entry()
    expected = read_key(key).verification_key if key is not None else None
    async with asked.open_client(entry) as client:
        order = client.resume(entry.saved) if entry is not None else asked.work_order_id(None)
        receipt = await client.retrieve_receipt(order, requester_key=expected, timeout=asked.timeout)
    if entry is None and not asked.as_json:
        remark("the journal has not this order: the receipt was not compared with it")
    _show(receipt, as_json=asked.as_json)
    return ExitCode.OK


async def verify(asked: Asked, *, key: Path | None) -> ExitCode:
    """Fetch and verify the order's result, and demand that the worker's own word in the receipt names it."""
    entry = asked.required_entry()
    expected = read_key(key).verification_key if key is not None else None
    async with asked.open_client(entry) as client:
        handle = client.resume(entry.saved)
        await _end_of(handle, asked.timeout)
        receipt = await client.retrieve_receipt(handle, requester_key=expected, timeout=asked.timeout)
    word = receipt.worker_says
    agrees = word is not None and word.agrees_with != ""
    if asked.as_json:
        show_json(_as_json(receipt) | {"worker_agrees": agrees})
    else:
        _show(receipt, as_json=False)
        if word is None:
            show("worker         has not said anything yet", "yellow")
        elif not agrees:
            show("worker         has said something, but not of the failure that the service told of", "red")
        elif word.agrees_with == "unanswered":
            show("worker         vouches that it has not answered the order and will not", "green")
        else:
            show(f"worker         vouches for the {word.agrees_with} that is at hand", "green")
    return ExitCode.OK if agrees else ExitCode.FAILED


async def update(asked: Asked, *, key: Path, kind: str, data: str | None) -> ExitCode:
    """Add a signed update as the order's requester."""
    entry = asked.required_entry()
    update_type = _type_of(kind)
    signer = read_key(key)
    async with asked.open_client(entry) as client:
        handle = client.resume(entry.saved)
        if data is None and update_type in (ReceiptStatus.COMPLETED, ReceiptStatus.PROCESSED):
            await handle.result(asked.timeout)
        await client.update_receipt(handle, signer, update_type, data, timeout=asked.timeout)
        receipt = await client.retrieve_receipt(handle, timeout=asked.timeout)
    _show(receipt, as_json=asked.as_json)
    return ExitCode.OK


async def look_up(
    url: str,
    *,
    worker_id: str | None,
    requester_id: str | None,
    worker_service_id: str | None,
    status: str | None,
    limit: int,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Print the ids of the orders that have a matching receipt, by the service's word."""
    ids: list[str] = []
    async with open_client(url, None, ()) as client:
        found = client.look_up_receipts(
            worker_id=worker_id,
            requester_id=requester_id,
            worker_service_id=worker_service_id,
            status=_type_of(status) if status is not None else None,
            timeout=timeout,
        )
        async for found_id in found:
            ids.append(found_id)
            if len(ids) >= limit:
                break
        await found.aclose()
    if as_json:
        show_json({"work_order_ids": ids})
    for work_order_id in () if as_json else ids:
        show(work_order_id)
    return ExitCode.OK


async def _end_of(handle: OrderHandle, timeout: float) -> None:
    try:
        await handle.result(timeout)
    except (OrderFailed, OrderRefused):
        return  # the worker's word is compared with what the service told


def _type_of(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return int(ReceiptStatus[text.upper()])
    except KeyError:
        names = ", ".join(status.name.lower() for status in ReceiptStatus if status is not ReceiptStatus.ANY)
        raise BadRequest(f"got {text!r}, expected {names}, or a number above 255") from None


def _show(receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        show_json(_as_json(receipt))
        return
    show(f"{'work order':<15}{receipt.work_order_id}")
    show(f"{'worker':<15}{receipt.worker_id}")
    show(f"{'requester':<15}{receipt.requester_id}")
    show(f"{'status':<15}{receipt.status_name}", "bold")
    show(f"{'created':<15}{status_name(receipt.create_status)}; the requester's signature verifies")
    for found in receipt.updates:
        show(f"{f'update {found.index}':<15}{found.type_name} by the {_who(found)}; the signature verifies")


def _who(found: ReceiptUpdate) -> str:
    return (
        found.by if found.by != "other" else f"holder of a key that is not the order's ({found.updater_id})"
    )


def _as_json(receipt: Receipt) -> dict[str, Any]:
    return {
        "work_order_id": receipt.work_order_id,
        "worker_id": receipt.worker_id,
        "requester_id": receipt.requester_id,
        "worker_service_id": receipt.worker_service_id,
        "status": receipt.status,
        "status_name": receipt.status_name,
        "request_hash": receipt.request_hash.hex(),
        "requester_key": receipt.requester_key.pem,
        "updates": [
            {
                "index": found.index,
                "by": found.by,
                "updater_id": found.updater_id,
                "type": found.type,
                "type_name": found.type_name,
                "data": found.data,
                "agrees_with": found.agrees_with,
            }
            for found in receipt.updates
        ],
    }
