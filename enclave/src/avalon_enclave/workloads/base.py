"""What a workload is: plaintext items in, plaintext items out, within limits that it declares.

A workload sees the plaintext of the orders that name it, and no key. One instance serves every order of its
workload, from several threads at a time where its isolation is ``THREAD``: state must be guarded, bounded, and kept
apart by requester. What it prints goes nowhere. An exception fails the order, and only the name of its type is
logged; errors that the requester is to read are outputs, which only the requester can open.
"""

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from avalon_core.crypto.orders import Item
from avalon_core.errors import AvalonError
from avalon_core.protocol.errors import WorkOrderError, failed_order
from avalon_core.protocol.ids import RequesterId, WorkerId, WorkOrderId, workload_id_of
from avalon_core.protocol.limits import MAX_ITEM_INDEX, MAX_ITEMS
from avalon_core.protocol.workers import WorkloadInfo

__all__ = ["Context", "Isolation", "Item", "ItemByItem", "Limits", "Workload"]

MIB = 1024 * 1024
MAX_OUTPUT_BYTES = 28 * MIB
"""All outputs of an order: in base64, with its envelope, a result must fit into one frame of the channel."""

MAX_ITEM_BYTES = 16 * MIB
"""The largest item that the wire carries (see avalon_core.protocol.limits)."""

MAX_SECONDS = 24 * 3600.0
"""No order takes longer than a day: its lease would have to last as long."""

NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,31})\Z")
"""A workload's id is the hex of its name, and ids are up to 32 bytes."""


class Isolation(enum.StrEnum):
    """Where a workload runs."""

    THREAD = "thread"
    """In the enclave's own process: fast, and it cannot be stopped. Only for code whose limits bound its work."""

    PROCESS = "process"
    """In a child process without keys, which is killed where it exceeds a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a workload takes and gives at most. Published in the worker record, enforced by the enclave."""

    max_items: int = 64
    max_item_bytes: int = MIB
    max_output_bytes: int = 4 * MIB
    """All outputs together."""

    seconds: float = 10.0
    """Wall-clock time of one order."""

    memory_bytes: int = 1024 * MIB
    """Address space of the child, with the interpreter. Means nothing where the isolation is ``THREAD``."""

    isolation: Isolation = Isolation.PROCESS

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_items", 1, MAX_ITEMS),
            ("max_item_bytes", 1, MAX_ITEM_BYTES),
            ("max_output_bytes", 1, MAX_OUTPUT_BYTES),
            ("seconds", 0.01, MAX_SECONDS),
            ("memory_bytes", 128 * MIB, 2**63 - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"{name}: got {value!r}, expected {low} to {high}")
        Isolation(self.isolation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Whose order it is. All of it is public on the wire."""

    work_order_id: WorkOrderId
    worker_id: WorkerId
    requester_id: RequesterId
    """Anybody can claim any id: state that is kept for a requester belongs under :attr:`requester`."""

    requester_key: str | None = None
    """PEM of the key under which the requester's signature verified; None where the order is not signed."""

    @property
    def requester(self) -> tuple[str, str | None]:
        """The requester as far as it proved who it is. An unsigned order never reaches a signer's state."""
        return self.requester_id, self.requester_key


class Workload(ABC):
    """Base class of workloads."""

    name: ClassVar[str]
    """As in the entry point. Lower case, digits, ``.``, ``_``, ``-``; up to 32 characters."""

    title: ClassVar[str]
    """For people: a few words."""

    input_help: ClassVar[str]
    """For people: what an input looks like."""

    limits: ClassVar[Limits] = Limits()

    @abstractmethod
    def run(self, inputs: Sequence[Item], context: Context) -> Sequence[Item]:
        """Process one order.

        Args:
            inputs: sorted by index, within the limits.
            context: whose order it is.

        Returns:
            Outputs with distinct indices. The requester chose the indices of the inputs; answer under the same.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a workload says of itself."""

    name: str
    title: str
    input_help: str
    limits: Limits

    @classmethod
    def of(cls, workload: Workload) -> "Description":
        """That of a loaded workload."""
        return cls(
            name=workload.name, title=workload.title, input_help=workload.input_help, limits=workload.limits
        )

    def info(self) -> WorkloadInfo:
        """As the worker record tells it."""
        return WorkloadInfo(
            workload_id=workload_id_of(self.name),
            name=self.name,
            title=self.title,
            input_help=self.input_help,
            max_items=self.limits.max_items,
            max_item_bytes=self.limits.max_item_bytes,
            time_limit_seconds=self.limits.seconds,
        )


class ItemByItem(Workload):
    """A workload that answers each input by itself, under the input's index."""

    @abstractmethod
    def answer(self, data: bytes, context: Context) -> bytes:
        """The output for one input."""

    def run(self, inputs: Sequence[Item], context: Context) -> Sequence[Item]:
        answer = self.answer
        return [Item(index=item.index, data=answer(item.data, context)) for item in inputs]


class OutputRefused(AvalonError):
    """What the workload returned is not acceptable; the message, which is ours, says why."""

    def as_failure(self) -> WorkOrderError:
        """As the requester is told."""
        return failed_order(f"the workload failed: {self.message}")


def check_outputs(outputs: Sequence[Item], limits: Limits) -> None:
    """Refuse outputs that cannot be sealed.

    Raises:
        OutputRefused: not items, too many or too large, or two of one index.
    """
    indices = set()
    size = 0
    for output in outputs:
        if not (
            isinstance(output, Item) and isinstance(output.data, bytes) and isinstance(output.index, int)
        ):
            raise OutputRefused("its outputs are not items of bytes")
        if not 0 <= output.index <= MAX_ITEM_INDEX:
            raise OutputRefused("an output's index is out of range")
        indices.add(output.index)
        size += len(output.data)
    if len(indices) != len(outputs) or len(outputs) > MAX_ITEMS:
        raise OutputRefused(f"it returned two outputs of one index, or more than {MAX_ITEMS}")
    if size > limits.max_output_bytes:
        raise OutputRefused(f"its output is over its limit of {limits.max_output_bytes} bytes")
