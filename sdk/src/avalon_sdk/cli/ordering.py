"""``avalon order``, ``orders``, ``cancel`` and ``watch``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.kept import Asked, at_second, note_state, present_state
from avalon_sdk.cli.output import SIMULATED_NOTE, remark, show, show_json
from avalon_sdk.cli.submitting import outcome_as_json, progress, show_outcome
from avalon_sdk.cli.trusting import open_client, read_key
from avalon_sdk.client import AvalonClient
from avalon_sdk.deadline import Deadline
from avalon_sdk.errors import (
    AvalonClientError,
    NoSuchOrder,
    NotOffered,
    OrderFailed,
    OrderRefused,
    ResultTimeout,
)
from avalon_sdk.events import OrderEvent, OrderState, follow
from avalon_sdk.journal import JournalEntry, OrderJournal
from avalon_sdk.orders import OrderOutcome
from avalon_sdk.transports.direct import DirectTransport

_ASKED_AT_ONCE = 8
"""Orders of a list whose states are asked for at the same time."""

_SHORT_SECONDS = 1.0
"""For the result of an order whose state the service does not tell."""

_SHORT_ID = 16
_ENDED_WITHOUT_RESULT = ("failed", "cancelled", "expired", "gone")


async def show_order(asked: Asked, *, waits: bool) -> ExitCode:
    """Print an order's state and, where the journal has its keys, its verified result."""
    entry = asked.entry()
    if entry is None:
        return await _show_unkept(asked)
    event = await _state_of(asked, entry)
    described: dict[str, Any] = _described(entry, event)
    code = ExitCode.OK
    outcome: OrderOutcome | None = None
    if waits or event is None or event.state.is_final:
        async with asked.open_client(entry) as client:
            with progress() as observer:
                handle = client.resume(entry.saved, on_progress=observer if waits else None)
                try:
                    outcome = await handle.result(_patience(asked, event, waits=waits))
                    described["state"] = "completed"
                except (OrderFailed, OrderRefused) as exc:
                    ended = event.state.value if event is not None and event.state.is_final else "failed"
                    described |= {"state": ended, "error": {"code": exc.code, "message": exc.message}}
                    code = ExitCode.FAILED
                except ResultTimeout:
                    if waits:
                        raise
    if outcome is not None and outcome.simulated:
        remark(SIMULATED_NOTE)
    if code is ExitCode.FAILED or outcome is not None:
        note_state(entry, described["state"])
    if asked.as_json:
        show_json(described | ({"result": outcome_as_json(outcome)} if outcome is not None else {}))
        return code
    _show_described(described)
    if outcome is not None:
        show_outcome(outcome, as_json=False)
    return code


def _patience(asked: Asked, event: OrderEvent | None, *, waits: bool) -> float:
    return asked.timeout if waits or event is not None else min(_SHORT_SECONDS, asked.timeout)


async def _state_of(asked: Asked, entry: JournalEntry) -> OrderEvent | None:
    try:
        return await present_state(asked.address(entry), asked.work_order_id(entry), asked.timeout)
    except NotOffered:
        return None


async def _show_unkept(asked: Asked) -> ExitCode:
    """The service's word is all that there is."""
    work_order_id = asked.work_order_id(None)
    event = await present_state(asked.address(None), work_order_id, asked.timeout)
    remark("the journal has not this order: its result can neither be verified nor opened here")
    described = {
        "work_order_id": work_order_id,
        "service": asked.address(None),
        "state": event.state.value,
        "since": at_second(event.at),
        "attempts": event.attempts,
    }
    if asked.as_json:
        show_json(described)
    else:
        _show_described(described)
    return ExitCode.OK


def _described(entry: JournalEntry, event: OrderEvent | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "work_order_id": entry.work_order_id,
        "service": entry.address,
        "worker_id": entry.worker_id,
        "workload": entry.workload,
        "sealed": at_second(entry.sealed_at),
        "state": event.state.value if event is not None else "not finished",
    }
    if event is not None:
        described |= {"since": at_second(event.at), "attempts": event.attempts}
    return described


def _show_described(described: dict[str, Any]) -> None:
    for name, value in described.items():
        text = value["message"] if isinstance(value, dict) else str(value)
        show(f"{name.replace('_', ' '):<15}{text}", "bold" if name == "state" else "")


async def list_orders(*, limit: int, timeout: float, prune: bool, as_json: bool) -> ExitCode:
    """Print the journal's orders, the newest first, with the states that they are in now."""
    journal = OrderJournal()
    entries = journal.entries()
    shown = entries if prune else entries[:limit]
    states = await _states(shown, timeout)
    if prune:
        return _prune(journal, shown, states, as_json=as_json)
    if as_json:
        show_json(
            {
                "orders": [
                    _described(entry, None) | {"state": state, "opened": entry.state == "completed"}
                    for entry, state in zip(shown, states, strict=True)
                ],
                "total": len(entries),
            }
        )
        return ExitCode.OK
    if not entries:
        show("The journal has no orders. 'avalon submit --no-wait' and '--keep' put them there.")
    for entry, state in zip(shown, states, strict=True):
        style = "green" if state == "completed" else "red" if state in _ENDED_WITHOUT_RESULT else ""
        show(
            f"{entry.work_order_id[:_SHORT_ID]:<18}{at_second(entry.sealed_at):<22}{state:<12}"
            f"{entry.workload:<22}{entry.address}",
            style,
        )
    if len(entries) > len(shown):
        remark(f"{len(entries) - len(shown)} older ones are not shown: --limit shows more")
    return ExitCode.OK


async def _states(entries: Sequence[JournalEntry], timeout: float) -> list[str]:
    states = [entry.state for entry in entries]
    limiter = anyio.CapacityLimiter(_ASKED_AT_ONCE)

    async def ask(index: int, entry: JournalEntry) -> None:
        async with limiter:
            states[index] = await _state_in_words(entry, timeout)

    async with anyio.create_task_group() as group:
        for index, entry in enumerate(entries):
            if not entry.state:
                group.start_soon(ask, index, entry)
    return states


async def _state_in_words(entry: JournalEntry, timeout: float) -> str:
    try:
        work_order_id = Asked(
            order=entry.work_order_id, url=None, policy=None, measurements=(), timeout=timeout, as_json=False
        ).work_order_id(entry)
        return (await present_state(entry.address, work_order_id, timeout)).state.value
    except NoSuchOrder:
        return "gone"
    except NotOffered:
        return "not told"
    except AvalonClientError:
        return "no answer"


def _prune(
    journal: OrderJournal, entries: Sequence[JournalEntry], states: Sequence[str], *, as_json: bool
) -> ExitCode:
    """Forget what is finished; but never what is completed and nobody has opened."""
    over = [
        entry
        for entry, state in zip(entries, states, strict=True)
        if entry.state or state in _ENDED_WITHOUT_RESULT
    ]
    for entry in over:
        journal.forget(entry.work_order_id)
    unopened = sum(
        1 for entry, state in zip(entries, states, strict=True) if not entry.state and state == "completed"
    )
    if as_json:
        show_json({"removed": [entry.work_order_id for entry in over], "left": len(entries) - len(over)})
        return ExitCode.OK
    show(f"{len(over)} removed, {len(entries) - len(over)} left")
    if unopened:
        remark(f"{unopened} completed and never opened are kept: 'avalon order ID' opens them")
    return ExitCode.OK


async def cancel_order(asked: Asked, *, key: Path | None, token_file: Path | None) -> ExitCode:
    """Withdraw an order of the journal, or as the operator anybody's, and print the state that it is in then."""
    entry = asked.required_entry() if token_file is None else asked.entry()
    work_order_id = asked.work_order_id(entry)
    if token_file is not None:
        async with open_client(asked.address(entry), None, (), operator_token=token_file) as client:
            state = await client.cancel_order(work_order_id, timeout=asked.timeout)
    else:
        assert entry is not None
        async with asked.open_client(entry) as client:
            handle = client.resume(entry.saved)
            signer = read_key(key) if key is not None else None
            state = await handle.cancel(signer=signer, timeout=asked.timeout)
    if state is OrderState.CANCELLED:
        note_state(entry, state.value)
    if asked.as_json:
        show_json({"work_order_id": work_order_id, "state": state.value})
    else:
        show(f"{work_order_id}  {state.value}")
    return ExitCode.OK if state is OrderState.CANCELLED else ExitCode.FAILED


async def watch_order(asked: Asked) -> ExitCode:
    """Print each state as it comes; the exit code says how the order ended."""
    entry = asked.entry()
    deadline = Deadline.after(asked.timeout)
    transport = DirectTransport(asked.address(entry))
    state = OrderState.SCHEDULED
    try:
        async for event in follow(transport, asked.work_order_id(entry), deadline, asked.timeout):
            state = event.state
            _show_event(event, as_json=asked.as_json)
    finally:
        await transport.close()
    if state is not OrderState.COMPLETED:
        return ExitCode.FAILED
    if entry is None:
        remark("the journal has not this order: that it is completed is the service's word")
        return ExitCode.OK
    async with asked.open_client(entry) as client:
        await _verify(client, entry, deadline)
    return ExitCode.OK


async def _verify(client: AvalonClient, entry: JournalEntry, deadline: Deadline) -> None:
    """An event is the service's word: the result decides."""
    await client.resume(entry.saved).result(max(deadline.left, _SHORT_SECONDS))
    remark(f"verified: 'avalon order {entry.work_order_id[:_SHORT_ID]}' shows the result")


def _show_event(event: OrderEvent, *, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "work_order_id": event.work_order_id,
                "state": event.state.value,
                "at": event.at.timestamp(),
                "attempts": event.attempts,
                "put_back": event.was_put_back,
            }
        )
        return
    extra = "  put back: an enclave did not finish it" if event.was_put_back else ""
    show(f"{at_second(event.at)}  {event.state.value}{extra}")
