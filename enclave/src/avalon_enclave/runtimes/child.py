"""The child process: one workload, one order at a time, no keys.

Started as ``python -m avalon_enclave.runtimes.child --workload NAME --channel fd:N`` by the enclave, which kills it
where it exceeds a limit. It reads orders from an inherited socket and ends with it.
"""

import argparse
import math
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress

from avalon_core.channel.frames import FrameDecoder
from avalon_core.errors import ChannelError
from avalon_core.protocol.ids import RequesterId, WorkerId, WorkOrderId
from avalon_enclave.events import type_name
from avalon_enclave.hardening import harden, silence
from avalon_enclave.runtimes.child_messages import (
    Broken,
    FromChild,
    Raised,
    Ran,
    Ready,
    Run,
    decode_to_child,
    encode,
)
from avalon_enclave.workloads.base import Context, Description, Item, OutputRefused, Workload, check_outputs
from avalon_enclave.workloads.registry import WorkloadBroken, load_named

_RECEIVE_BYTES = 64 * 1024


def main() -> int:
    """Serve until the enclave closes the channel."""
    parser = argparse.ArgumentParser(prog="avalon_enclave.runtimes.child")
    parser.add_argument("--workload", required=True)
    parser.add_argument("--channel", required=True, help="fd:N")
    arguments = parser.parse_args()
    harden()
    silence(0, 1, 2)
    connection = socket.socket(fileno=int(arguments.channel.removeprefix("fd:")))
    connection.set_inheritable(False)
    workload = _load(connection, arguments.workload)
    if workload is None:
        return 1
    memory = workload.limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for order in _orders(connection):
        _limit_cpu(workload.limits.seconds)
        answer = _run(workload, order)
        connection.sendall(_encode(answer))
        if isinstance(answer, Raised) and answer.error == MemoryError.__name__:
            return 1  # what is left of this process cannot be relied on
    return 0


def _load(connection: socket.socket, name: str) -> Workload | None:
    try:
        workload = load_named(name)
    except WorkloadBroken as exc:
        connection.sendall(encode(Broken(error=exc.message)))
        return None
    connection.sendall(encode(Ready(description=Description.of(workload))))
    return workload


def _orders(connection: socket.socket) -> Iterator[Run]:
    decoder = FrameDecoder()
    while data := connection.recv(_RECEIVE_BYTES):
        for payload in decoder.feed(data):
            yield decode_to_child(payload)


def _limit_cpu(seconds: float) -> None:
    """A second line behind the enclave's clock: CPU time of this order (all threads), then SIGXCPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cores = os.cpu_count() or 1
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds * cores) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _run(workload: Workload, order: Run) -> FromChild:
    context = Context(
        work_order_id=WorkOrderId(order.work_order_id),
        worker_id=WorkerId(order.worker_id),
        requester_id=RequesterId(order.requester_id),
        requester_key=order.requester_key,
    )
    try:
        outputs = workload.run([Item(index=index, data=data) for index, data in order.inputs], context)
        check_outputs(outputs, workload.limits)
        return Ran(outputs=tuple((item.index, item.data) for item in outputs))
    except OutputRefused as exc:
        return Raised(error=type_name(exc), refused=exc.message)
    except BaseException as exc:  # noqa: BLE001 whatever a workload raises, SystemExit too, fails its order only
        return Raised(error=type_name(exc))


def _encode(answer: FromChild) -> bytes:
    try:
        return encode(answer)
    except ChannelError:
        return encode(Raised(error="OutputRefused", refused="its output is too large"))


if __name__ == "__main__":
    sys.exit(main())
