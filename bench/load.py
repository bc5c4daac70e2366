"""A load generator that costs little itself: orders are sealed beforehand, connections are kept, results are checked after.

On two cores the generator competes with what it measures, so its own work per request is kept to writing bytes and
feeding a response parser (httptools, the one that the server uses).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools
import msgspec

from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, seal_order
from avalon_core.protocol.ids import workload_id_of
from avalon_core.protocol.jsonrpc import encode_call
from avalon_core.protocol.orders import encode_request


def draft(worker_id: str, workload: str, data: bytes, *, timeout_msecs: int = 0) -> OrderDraft:
    """An order of one item under fresh ids."""
    return OrderDraft(
        work_order_id=os.urandom(32).hex(),
        worker_id=worker_id,
        workload_id=workload_id_of(workload),
        requester_id=os.urandom(32).hex(),
        requester_nonce=os.urandom(16).hex(),
        inputs=[Item(index=0, data=data)],
        response_timeout_msecs=timeout_msecs,
    )


def seal_many(
    count: int, worker_id: str, keys, *, suite: str, workload: str = "echo-result", data: bytes = b"hello"
) -> list[SealedOrder]:
    """Seal orders, each with everything fresh, as so many requesters would."""
    return [seal_order(draft(worker_id, workload, data), keys, suite=suite) for _ in range(count)]


def http_request(sealed: SealedOrder, host: str, *, wait: int = 60) -> bytes:
    """The bytes of one submission that waits for its result."""
    body = encode_call("WorkOrderSubmit", msgspec.Raw(encode_request(sealed.request)), 1)
    head = (
        f"POST / HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"prefer: wait={wait}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Client(asyncio.Protocol):
    def __init__(
        self, work: list[bytes], answers: list[tuple[float, bytes]], finished: asyncio.Future[None]
    ) -> None:
        self._work = work
        self._answers = answers
        self._finished = finished
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if not self._work:
            self._transport.close()
            if not self._finished.done():
                self._finished.set_result(None)
            return
        request = self._work.pop()
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._answers.append((time.perf_counter() - self._began, b"".join(self._body)))
        self._body = []
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._finished.done():
            self._finished.set_exception(exc or ConnectionError("the service closed the connection"))


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a run of the generator measured."""

    seconds: float
    latencies: Sequence[float] = field(repr=False)
    answers: Sequence[bytes] = field(repr=False)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def run_load(host: str, port: int, requests: list[bytes], clients: int) -> Load:
    """Send all requests over ``clients`` connections, one outstanding on each."""
    loop = asyncio.get_running_loop()
    work = list(reversed(requests))
    answers: list[tuple[float, bytes]] = []
    finished = [loop.create_future() for _ in range(clients)]
    began = time.perf_counter()
    for future in finished:
        await loop.create_connection(lambda future=future: _Client(work, answers, future), host, port)
    await asyncio.gather(*finished)
    return Load(
        seconds=time.perf_counter() - began,
        latencies=[seconds for seconds, _ in answers],
        answers=[body for _, body in answers],
    )
