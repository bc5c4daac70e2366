"""resultUri and notifyUri against a real service and real receivers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from receivers import Receiver, always
from service_process import Requester, ServiceProcess

from avalon_core.crypto.orders import SealedOrder

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

Start = Callable[..., ServiceProcess]

OPEN_TO_LOOPBACK = {
    "AVALON_DELIVERY_ALLOW_PRIVATE": "true",
    "AVALON_DELIVERY_PORTS": "",
    "AVALON_DELIVERY_ATTEMPTS": "3",
    "AVALON_DELIVERY_FIRST_RETRY_SECONDS": "0.05",
    "AVALON_DELIVERY_TIMEOUT_SECONDS": "2",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that posts to loopback and gives up soon."""
    running = ServiceProcess(tmp_path_factory.mktemp("service") / "data", environment=OPEN_TO_LOOPBACK)
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
    finally:
        running.kill()


def seal(requester: Requester, text: bytes = b"x", **options: Any) -> tuple[SealedOrder, dict[str, Any]]:
    """An order, and its params to which addresses can be added: no hash of the dialects covers them."""
    sealed = requester.seal([text], suite="avalon", **options)
    return sealed, msgspec.to_builtins(sealed.request)


async def submit(requester: Requester, params: dict[str, Any], call_id: object = 7) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": call_id, "method": "WorkOrderSubmit", "params": params})
    _, answer = await requester.post(body.encode())
    return json.loads(answer)


async def dead(service: ServiceProcess, requester: Requester, work_order_id: str) -> dict[str, Any]:
    """The dead letter of an order, as soon as there is one."""
    token = (service.data_dir / "operator-token").read_text().strip()
    async with asyncio.timeout(30):
        while True:
            status, body = await page(service, token, "state=dead&limit=1000")
            assert status == 200
            for delivery in json.loads(body)["deliveries"]:
                if delivery["workOrderId"] == work_order_id:
                    return delivery
            await asyncio.sleep(0.05)


async def page(service: ServiceProcess, token: str, query: str) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{service.url}/deliveries?{query}", headers=headers) as answer,
    ):
        return answer.status, await answer.read()


async def test_the_result_is_posted_as_it_would_be_answered(requester: Requester) -> None:
    async with Receiver() as receiver:
        sealed, params = seal(requester, b"hello")
        answer = await submit(requester, {**params, "resultUri": receiver.url}, "my id")
        assert answer["error"]["code"] == 5
        [post] = await receiver.received(1)
        assert post.json["id"] == "my id"
        assert requester.open(sealed, post.json) == [b"RESULT: hello"]
        assert post.json["result"] == (await requester.result(sealed))["result"]
        assert (post.key, post.content_type) == (f"result-{params['workOrderId']}", "application/json")


async def test_a_failure_is_posted_as_the_error_that_would_be_answered(requester: Requester) -> None:
    async with Receiver() as receiver:
        sealed, params = seal(requester, workload="no-such-workload")
        await submit(requester, {**params, "resultUri": receiver.url})
        [post] = await receiver.received(1)
        answer = await requester.result(sealed)
        assert answer["error"]["code"] == 9
        assert post.json == {**answer, "id": 7}


@pytest.mark.parametrize("workload", ["echo-result", "no-such-workload"])
async def test_a_notification_says_that_an_order_is_finished_and_nothing_else(
    requester: Requester, workload: str
) -> None:
    async with Receiver() as receiver:
        _, params = seal(requester, workload=workload)
        await submit(requester, {**params, "notifyUri": receiver.url})
        [post] = await receiver.received(1)
        assert post.json == {"jsonrpc": "2.0", "id": 7, "result": {"workOrderId": params["workOrderId"]}}
        assert post.key == f"notify-{params['workOrderId']}"


async def test_both_at_once(requester: Requester) -> None:
    async with Receiver() as receiver:
        _, params = seal(requester)
        await submit(requester, {**params, "notifyUri": receiver.url, "resultUri": receiver.url})
        posts = await receiver.received(2)
        assert {post.key.partition("-")[0] for post in posts} == {"result", "notify"}


async def test_the_same_order_again_is_posted_once(requester: Requester) -> None:
    async with Receiver() as receiver:
        sealed, params = seal(requester)
        for _ in range(3):
            await submit(requester, {**params, "resultUri": receiver.url})
        await receiver.received(1)
        await requester.result(sealed)
        _, other = seal(requester)
        await submit(requester, {**other, "notifyUri": receiver.url})
        posts = await receiver.received(2)
        assert len(posts) == 2


async def test_a_synchronous_order_is_answered_and_posted_nowhere(requester: Requester) -> None:
    sealed, params = seal(requester, timeout_msecs=6000)
    answer = await submit(requester, {**params, "resultUri": "what old clients send"})
    assert requester.open(sealed, answer) == [b"RESULT: x"]


async def test_a_receiver_that_recovers_gets_it(requester: Requester) -> None:
    async def answer(count: int) -> web.Response:
        return web.Response(status=503 if count < 3 else 200)

    async with Receiver(answer) as receiver:
        _, params = seal(requester)
        await submit(requester, {**params, "resultUri": receiver.url})
        posts = await receiver.received(3)
        assert len({post.key for post in posts}) == 1
        assert len({post.body for post in posts}) == 1


REFUSALS = {
    "a receiver that is down is tried as often as is set": (None, 3, "tried 3 times: cannot connect"),
    "a receiver that fails is tried as often as is set": (
        always(500),
        3,
        "tried 3 times: answered with status 500",
    ),
    "a receiver that refuses is not tried again": (always(404), 1, "refused with status 404"),
    "a redirect is not followed": (always(307, location="http://127.0.0.1:1/"), 1, "redirect"),
}


@pytest.mark.parametrize("sentence", REFUSALS)
async def test_dead_letters(service: ServiceProcess, requester: Requester, sentence: str) -> None:
    answer, attempts, said = REFUSALS[sentence]
    async with Receiver(answer) as receiver:
        if answer is None:
            await receiver._runner.cleanup()
        _, params = seal(requester)
        await submit(requester, {**params, "resultUri": receiver.url})
        letter = await dead(service, requester, params["workOrderId"])
        assert letter["attempts"] == attempts
        assert said in letter["lastError"]
        assert letter["receiver"] == f"http://127.0.0.1:{receiver.port}"
        assert "secret" not in json.dumps(letter)
        assert len(receiver.posts) == (attempts if answer else 0)


async def test_a_slow_receiver_delays_nobody_else(service: ServiceProcess, requester: Requester) -> None:
    release = asyncio.Event()

    async def never(_: int) -> web.Response:
        await release.wait()
        return web.Response()

    async with Receiver(never) as slow, Receiver() as fast:
        orders = []
        for _ in range(20):
            _, params = seal(requester)
            orders.append(params["workOrderId"])
            await submit(requester, {**params, "resultUri": slow.url})
        await slow.received(1)
        for count in range(1, 6):
            _, params = seal(requester)
            await submit(requester, {**params, "resultUri": fast.url})
            await fast.received(count)
            assert len(slow.posts) <= 4 * 2  # its own share of the posts under way
        release.set()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://receiver.example/", "expected https or http"),
        ("http://user:pass@receiver.example/", "user and password"),
        ("http://169.254.169.254/latest", "link-local"),
        ("http://2130706433/", "usual spelling"),
        ("http://[::ffff:127.0.0.1]/", "IPv4-mapped"),
        ("http://receiver.example/\n", "printable ASCII"),
        ("//receiver.example/", "absolute"),
        ("http://receiver.example/#x", "fragment"),
    ],
)
@pytest.mark.parametrize("member", ["resultUri", "notifyUri"])
async def test_bad_addresses_are_refused_at_once(
    requester: Requester, member: str, uri: str, said: str
) -> None:
    sealed, params = seal(requester)
    answer = await submit(requester, {**params, member: uri})
    assert answer["error"]["code"] == 2
    assert answer["error"]["message"].startswith(member)
    assert said in answer["error"]["message"]
    assert answer["error"]["data"]["workOrderId"] == params["workOrderId"]
    assert (await requester.result(sealed, wait=0))["error"]["code"] == 2  # nothing was stored


async def test_counts_and_the_operator_s_page(service: ServiceProcess, requester: Requester) -> None:
    counts = json.loads((await requester.get("/status"))[1])["deliveries"]
    assert counts["delivered"] >= 1
    assert (await page(service, "", "state=dead"))[0] == 401
    assert (await page(service, "wrong" * 10, "state=dead"))[0] == 403
    token = (service.data_dir / "operator-token").read_text().strip()
    assert (await page(service, token, "state=lost"))[0] == 400
    _, body = await page(service, token, "state=delivered&limit=1")
    first = json.loads(body)
    assert len(first["deliveries"]) == 1
    _, body = await page(service, token, f"state=delivered&limit=1&before={first['before']}")
    assert json.loads(body)["deliveries"] != first["deliveries"]
    assert 'avalon_deliveries{state="delivered"}' in (await requester.get("/metrics"))[1].decode()


async def test_private_receivers_are_refused_by_default(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    for uri in (
        "http://127.0.0.1:8080/",
        "http://[::1]/",
        "http://10.1.2.3/",
        "http://receiver.example:6379/",
    ):
        _, params = seal(requester)
        assert (await submit(requester, {**params, "resultUri": uri}))["error"]["code"] == 2
    _, params = seal(requester)
    await submit(
        requester, {**params, "resultUri": "http://localhost/"}
    )  # a name: found out when it is resolved
    letter = await dead(service, requester, params["workOrderId"])
    assert "loopback" in letter["lastError"]


async def test_deliveries_survive_kill_9(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Between the orders' completion and their delivery, and again before the receiver is there."""
    environment = {**OPEN_TO_LOOPBACK, "AVALON_DELIVERY_ATTEMPTS": "1000"}
    holding = asyncio.Event()

    async def hold(_: int) -> web.Response:
        await holding.wait()
        return web.Response(status=503)

    async with Receiver(hold) as receiver:
        service = start(environment=environment).wait_ready()
        requester = Requester(service.url, session)
        await requester.meet_worker()
        orders = {}
        for number in range(20):
            sealed, params = seal(requester, b"%d" % number)
            await submit(requester, {**params, "resultUri": receiver.url})
            orders[params["workOrderId"]] = sealed
        for sealed in orders.values():
            assert "result" in await requester.result(sealed)
        await receiver.received(1)
        service.kill()
        receiver._answer = None
        port = receiver.port
        receiver.posts.clear()
        service = start(environment=environment).wait_ready()
        async with asyncio.timeout(60):
            while len({post.key for post in receiver.posts}) < len(orders):
                await receiver.received(len(receiver.posts) + 1)
        holding.set()
        assert port == receiver.port
        for post in receiver.posts:
            work_order_id = post.key.removeprefix("result-")
            assert requester.open(orders[work_order_id], post.json)[0].startswith(b"RESULT: ")
        requester.url = service.url
        status = json.loads((await requester.get("/status"))[1])
        assert status["deliveries"]["dead"] == 0


async def test_an_undelivered_order_is_not_purged(start: Start, session: aiohttp.ClientSession) -> None:
    environment = {
        **OPEN_TO_LOOPBACK,
        "AVALON_DELIVERY_ATTEMPTS": "1000",
        "AVALON_KEEP_FINISHED_ORDERS": "1",
    }
    async with Receiver(always(503)) as receiver:
        service = start(environment=environment).wait_ready()
        requester = Requester(service.url, session)
        await requester.meet_worker()
        kept, params = seal(requester)
        await submit(requester, {**params, "resultUri": receiver.url})
        gone = [requester.seal([b"x"]) for _ in range(3)]
        for sealed in gone:
            await requester.submit(sealed, wait=30)
        await receiver.received(1)
        service.kill()
        service = start(environment=environment).wait_ready()  # keeps house at its start
        requester.url = service.url
        async with asyncio.timeout(30):
            while "result" in await requester.result(gone[0], wait=0):  # noqa: ASYNC110 (nobody is told of a purge)
                await asyncio.sleep(0.1)
        assert "result" in await requester.result(kept)
