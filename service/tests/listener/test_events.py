"""Streams of events, over a store in memory and a client that is played by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avalon_service.listener.events import EventStreams
from avalon_service.orders.ports import NewOrder, OrderFailure, OrderStore
from avalon_service.store.memory import MemoryStore

FAILURE = OrderFailure(code=1, message="no")


class Client:
    """One request of a client, in its own task."""

    def __init__(self, streams: EventStreams, name: str = "a", last_id: str = "", **options: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.stuck = False
        self._gone = asyncio.Event()
        self._flows = asyncio.Event()
        self._flows.set()
        self.task = asyncio.ensure_future(streams.serve(name, last_id, self._receive, self._send, **options))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._flows.wait()
        self.sent.append(dict(message))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._gone.set()  # as servers do once the answer is complete

    def leave(self) -> None:
        self._gone.set()

    def stop_reading(self) -> None:
        self._flows.clear()

    def read_on(self) -> None:
        self._flows.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def ids(self) -> list[str]:
        text = b"".join(message.get("body", b"") for message in self.sent).decode()
        return [line[4:] for line in text.splitlines() if line.startswith("id: ")]


@pytest.fixture
async def orders() -> OrderStore:
    orders = MemoryStore().orders
    await orders.submit(NewOrder(work_order_id="a", worker_id="w", requester_id="r", request=b""))
    return orders


def streams_of(orders: OrderStore, limit: int = 10, heartbeat: float = 1000.0) -> EventStreams:
    return EventStreams(orders, limit=limit, heartbeat=heartbeat)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_stream_is_one_task_while_nothing_happens(orders: OrderStore) -> None:
    before = len(asyncio.all_tasks())
    clients = [Client(streams_of(orders)) for _ in range(50)]
    await turns()
    assert len(asyncio.all_tasks()) == before + 50  # the server's own, one a request
    assert {tuple(client.ids) for client in clients} == {("scheduled-0",)}
    for client in clients:
        client.leave()
    await asyncio.gather(*(client.task for client in clients))


async def test_all_hear_of_the_end_and_are_forgotten(orders: OrderStore) -> None:
    streams = streams_of(orders)
    clients = [Client(streams) for _ in range(5)]
    await turns()
    (claim,) = await orders.claim("w", limit=1, lease=9.0)
    await turns()
    await orders.complete("a", claim.token, b"{}")
    await asyncio.gather(*(client.task for client in clients))
    assert {tuple(client.ids) for client in clients} == {("scheduled-0", "processing-1", "completed-1")}
    assert len(streams) == 0
    assert not orders._followers  # type: ignore[attr-defined]


async def test_a_client_that_leaves_is_forgotten(orders: OrderStore) -> None:
    streams = streams_of(orders)
    client = Client(streams)
    await turns()
    assert len(streams) == 1
    client.leave()
    await client.task
    assert len(streams) == 0
    await orders.cancel("a", FAILURE)
    await turns()
    assert client.ids == ["scheduled-0"]


async def test_a_client_that_knows_the_state_waits_for_the_next(orders: OrderStore) -> None:
    client = Client(streams_of(orders), last_id="scheduled-0")
    await turns()
    assert client.ids == []
    await orders.cancel("a", FAILURE)
    await client.task
    assert client.ids == ["cancelled-0"]


async def test_a_client_that_knows_the_end_shall_not_come_back(orders: OrderStore) -> None:
    await orders.cancel("a", FAILURE)
    again = Client(streams_of(orders), last_id="cancelled-0")
    await again.task
    assert again.status == 204
    other = Client(streams_of(orders), last_id="processing-1")
    await other.task
    assert other.ids == ["cancelled-0"]


async def test_a_client_that_does_not_read_holds_little(orders: OrderStore) -> None:
    client = Client(streams_of(orders))
    await turns()
    client.stop_reading()
    for _ in range(500):
        (claim,) = await orders.claim("w", limit=1, lease=9.0)
        await orders.release("a", claim.token)
    await orders.cancel("a", FAILURE)
    await turns()
    client.read_on()
    await client.task
    assert len(client.ids) < 70
    assert client.ids[-1] == "cancelled-500"


async def test_the_cap_and_the_end_of_the_service(orders: OrderStore) -> None:
    streams = streams_of(orders, limit=2)
    clients = [Client(streams) for _ in range(2)]
    await turns()
    refused = Client(streams)
    await refused.task
    assert refused.status == 503
    streams.close()
    await asyncio.gather(*(client.task for client in clients))
    late = Client(streams)
    await late.task
    assert late.status == 503


async def test_unknown_orders_and_heads(orders: OrderStore) -> None:
    unknown = Client(streams_of(orders), "b")
    await unknown.task
    assert unknown.status == 404
    head = Client(streams_of(orders), head_only=True)
    await head.task
    assert (head.status, head.ids) == (200, [])


async def test_quiet_streams_show_that_they_live(orders: OrderStore) -> None:
    streams = streams_of(orders, limit=40, heartbeat=0.05)
    clients = [Client(streams) for _ in range(40)]
    async with asyncio.timeout(10):
        while not all(len(client.sent) > 3 for client in clients):  # noqa: ASYNC110 (beats come with time)
            await asyncio.sleep(0.01)
    assert {client.sent[-1]["body"] for client in clients} == {b": \n\n"}
    streams.close()
    await asyncio.gather(*(client.task for client in clients))
