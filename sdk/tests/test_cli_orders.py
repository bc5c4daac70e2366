"""The commands about orders, receipts and workers as processes of their own, against a service on loopback."""

import asyncio
import json

import msgspec
import pytest
from msgspec.structs import replace

from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.errors import WorkOrderError
from avalon_sdk.testing import SimulatedService

pytestmark = pytest.mark.acceptance


@pytest.fixture
def here(http_service, avalon, tmp_path):
    """The command with a journal of its own; the journal knows the address."""
    environment = {"AVALON_ORDERS_DIR": str(tmp_path / "orders"), "XDG_DATA_HOME": str(tmp_path)}

    async def run(*arguments: str, **env: str):
        return await avalon(*arguments, **(environment | env))

    async def submit(*arguments: str) -> str:
        ran = await run("submit", "echo-result", "a", "--no-wait", "--url", http_service.url, *arguments)
        assert ran.code == 0, ran.err
        return ran.out.strip()

    run.submit = submit  # type: ignore[attr-defined]
    run.orders = tmp_path / "orders"  # type: ignore[attr-defined]
    return run


@pytest.fixture
def key_file(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def make(name: str):
        path = tmp_path / name
        path.touch(0o600)
        path.write_bytes(
            ec.generate_private_key(ec.SECP256K1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        return path

    return make


async def test_an_order_is_sent_by_one_process_and_opened_by_another(http_service, here):
    http_service.service.pause()
    order = await here.submit()
    assert [path.name for path in here.orders.iterdir()] == [f"{order}.order"]
    waiting = await here("order", order[:10], "--json")
    assert waiting.code == 0
    assert json.loads(waiting.out)["state"] == "scheduled"
    late = await here("order", order, "--wait", "--timeout", "1")
    assert late.code == 5
    http_service.service.resume()
    done = await here("order", order)
    assert done.code == 0
    assert "RESULT: a" in done.out
    assert "completed" in done.out
    told = json.loads((await here("order", order, "--wait", "--json")).out)
    assert told["result"]["outputs"] == [{"index": 0, "text": "RESULT: a"}]


async def test_a_plain_submit_leaves_nothing_and_keep_keeps(http_service, here):
    assert (await here("submit", "echo-result", "a", "--url", http_service.url)).code == 0
    assert not here.orders.exists()
    assert (await here("submit", "echo-result", "a", "--keep", "--url", http_service.url)).code == 0
    listed = json.loads((await here("orders", "--json")).out)
    assert [(order["state"], order["opened"]) for order in listed["orders"]] == [("completed", True)]


async def test_orders_are_listed_newest_first_with_present_states_and_pruned(http_service, here):
    service = http_service.service
    empty = await here("orders")
    assert "no orders" in empty.out
    service.pause()
    first, second = await here.submit(), await here.submit()
    service.move("processing")
    listed = await here("orders")
    assert [line[:16] for line in listed.out.splitlines()] == [second[:16], first[:16]]
    assert listed.out.count("processing") == 2
    limited = await here("orders", "--limit", "1")
    assert len(limited.out.splitlines()) == 1
    assert "1 older" in limited.err
    assert (await here("cancel", first)).out == f"{first}  cancelled\n"
    service.resume()
    pruned = await here("orders", "--prune")
    assert pruned.out == "1 removed, 1 left\n"
    assert "never opened are kept" in pruned.err
    assert (await here("order", second)).code == 0
    assert json.loads((await here("orders", "--prune", "--json")).out) == {"removed": [second], "left": 0}


async def test_states_of_a_service_that_is_gone_or_forgot(http_service, here):
    await here.submit()
    http_service.service._orders.clear()
    assert "gone" in (await here("orders")).out
    for path in here.orders.iterdir():
        path.write_bytes(path.read_bytes().replace(http_service.url.encode(), b"http://127.0.0.1:1", 1))
    assert "no answer" in (await here("orders", "--timeout", "1")).out


async def test_watch_prints_each_state_and_ends_by_the_outcome(http_service, here):
    service = http_service.service
    service.pause()
    order = await here.submit()
    followed = asyncio.Event()
    service.forge_events = lambda events: followed.set() or events
    watching = asyncio.create_task(here("watch", order, "--json"))
    await asyncio.wait_for(followed.wait(), 30)
    service.move("processing")
    await asyncio.sleep(0.1)
    service.resume()
    watched = await watching
    assert watched.code == 0
    states = [json.loads(line)["state"] for line in watched.out.splitlines()]
    assert states[0] == "scheduled"
    assert states[-1] == "completed"
    assert "verified" in watched.err
    service.pause()
    late = await here("watch", await here.submit(), "--timeout", "1")
    assert late.code == 5


async def test_watch_does_not_believe_what_events_say_of_completion(http_service, here):
    service = http_service.service
    service.pause()
    order = await here.submit()
    service.forge_events = lambda events: [event | {"state": "completed"} for event in events]
    assert (await here("watch", order, "--timeout", "2")).code == 5
    service.result_signer = SigningKey.generate()
    service.resume()
    assert (await here("watch", order)).code == 4
    assert (await here("order", order)).code == 4


async def test_failed_and_cancelled_orders(http_service, here):
    service = http_service.service
    service.pause()
    order, other = await here.submit(), await here.submit()
    assert (await here("cancel", other, "--json")).code == 0
    watched = await here("watch", other)
    assert watched.code == 1
    assert "cancelled" in watched.out
    service.failure = WorkOrderError(1, "division by \x1b[31m zero")
    service.resume()
    failed = await here("order", order)
    assert failed.code == 1
    assert "division by ?[31m zero" in failed.out
    assert (await here("order", other)).code == 1
    again = await here("cancel", order)
    assert (again.code, again.out.split()[-1]) == (1, "failed")


async def test_an_order_that_the_journal_has_not(http_service, here):
    service = http_service.service
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
    shown = await here("order", handle.work_order_id, "--url", http_service.url)
    assert shown.code == 0
    assert "completed" in shown.out
    assert "RESULT" not in shown.out
    assert "neither be verified nor opened" in shown.err
    watched = await here("watch", handle.work_order_id, "--url", http_service.url)
    assert (watched.code, "service's word" in watched.err) == (0, True)
    for command in ("cancel", "order"):
        assert (await here(command, "ab" * 32, "--url", http_service.url)).code in (1, 2)
        assert (await here(command, "../x", "--url", http_service.url)).code == 2


async def test_a_journal_that_was_tampered_with(http_service, here):
    order = await here.submit()
    path = here.orders / f"{order}.order"
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    ran = await here("order", order)
    assert ran.code == 4
    assert "damaged" in ran.err
    here.orders.chmod(0o755)
    public = await here("orders")
    assert public.code == 2
    assert "chmod 700" in public.err


async def test_the_life_of_a_receipt(http_service, here, key_file):
    mine, stranger = str(key_file("me.pem")), str(key_file("stranger.pem"))
    order = await here.submit()
    assert (await here("receipt", "show", order)).code == 1
    created = await here("receipt", "create", order, "--key", mine)
    assert created.code == 0, created.err
    shown = await here("receipt", "show", order, "--key", mine)
    assert "processed by the worker" in shown.out
    verified = await here("receipt", "verify", order, "--key", mine, "--json")
    assert (verified.code, json.loads(verified.out)["worker_agrees"]) == (0, True)
    assert (await here("receipt", "verify", order, "--key", stranger)).code == 4
    updated = await here("receipt", "update", order, "completed", "--key", mine, "--json")
    assert json.loads(updated.out)["status_name"] == "completed"
    listed = await here("receipt", "list", "--status", "completed", "--url", http_service.url)
    assert listed.out == f"{order}\n"
    unknown = await here("receipt", "update", order, "splendid", "--key", mine)
    assert (unknown.code, "expected pending" in unknown.err) == (2, True)


async def test_a_forged_receipt_is_exit_code_4(http_service, here, key_file):
    mine = str(key_file("me.pem"))
    order = await here.submit()
    assert (await here("receipt", "create", order, "--key", mine)).code == 0
    http_service.service.forge_receipt = lambda receipt: receipt.update(receiptCurrentStatus=1)
    for command in ("show", "verify"):
        ran = await here("receipt", command, order)
        assert ran.code == 4
        assert "does not add up" in ran.err


async def test_a_key_that_others_can_read_or_that_is_none(http_service, here, key_file, tmp_path):
    order = await here.submit()
    path = key_file("me.pem")
    path.chmod(0o644)
    assert "chmod 600" in (await here("receipt", "create", order, "--key", str(path))).err
    path.chmod(0o600)
    path.write_text("no key")
    ran = await here("receipt", "create", order, "--key", str(path))
    assert (ran.code, "openssl" in ran.err) == (2, True)


async def test_a_signed_order_is_cancelled_with_its_key(http_service, here, key_file):
    http_service.service.pause()
    mine = str(key_file("me.pem"))
    order = await here.submit("--key", mine, "--requester", "ab" * 32)
    without = await here("cancel", order)
    assert (without.code, "signed" in without.err) == (2, True)
    assert (await here("cancel", order, "--key", mine)).code == 0


async def test_worker_show_tells_each_check_with_its_remedy(http_service, here):
    service = http_service.service
    ran = await here("worker", "show", "simulated-worker", "--url", http_service.url)
    assert ran.code == 0
    for name in (
        "quote signature",
        "root",
        "accepted root",
        "debug",
        "code identity",
        "worker identity",
        "report data",
        "encryption keys",
    ):
        assert f"passed          {name}" in ran.out
    refused = await here("worker", "show", "--measurement", "00" * 32, "--url", http_service.url)
    assert refused.code == 4
    assert "remedy" in refused.out
    assert "NOT trusted: 2 of " in refused.out  # the root is a simulator's, and the code another
    told = json.loads(
        (await here("worker", "show", service.worker_id, "--json", "--url", http_service.url)).out
    )
    assert told["trusted"] is True
    assert (told["mode"], told["verdict"], told["problems"]) == ("SIMULATED sgx", "passed", [])
    assert (await here("worker", "show", "nobody", "--url", http_service.url)).code == 3


async def test_the_operator_writes_to_the_directory(http_service, here, tmp_path):
    service = http_service.service
    other = SimulatedService(name="other")
    details = tmp_path / "details.json"
    details.write_bytes(msgspec.json.encode(other.record()["details"]))
    token = tmp_path / "operator-token"
    token.touch(0o600)
    token.write_text("x" * 40)
    service.operator_token = "x" * 40
    url = ("--url", http_service.url)
    unauthorised = await here("worker", "register", "other", "--details", str(details), *url)
    assert (unauthorised.code, "--token-file" in unauthorised.err) == (2, True)
    arguments = ("worker", "register", "other", "--details", str(details), *url)
    assert (await here(*arguments, "--token-file", str(token))).code == 0
    assert (await here(*arguments, "--replace", "--token-file", str(token))).code == 0
    done = await here(
        "worker", "set-status", "other", "off-line", *url, AVALON_OPERATOR_TOKEN_FILE=str(token)
    )
    assert done.code == 0
    assert service.directory.entries[other.worker_id]["status"] == 2
    assert (await here("worker", "set-status", "other", "asleep", *url)).code == 2
    token.write_text("y" * 40)
    denied = await here("worker", "set-status", "other", "active", *url, "--token-file", str(token))
    assert denied.code == 1
    assert "y" * 40 not in denied.out + denied.err


async def test_a_url_without_encryption_is_warned_of(here):
    ran = await here("submit", "echo-result", "a", "--url", "http://192.0.2.1:1", "--timeout", "0.2")
    assert "not encrypted on the way" in ran.err
    assert "192.0.2.1" in ran.err


async def test_a_result_that_was_changed_is_refused_by_order(http_service, here):
    service = http_service.service
    service.pause()
    order = await here.submit()
    service.forge_result = lambda result: replace(result, worker_nonce="AAAA")
    service.resume()
    assert (await here("order", order)).code == 4


async def test_a_service_without_events(http_service, here):
    service = http_service.service
    service.pause()
    service.sends_events = False
    order = await here.submit()
    assert "not told" in (await here("orders")).out
    assert json.loads((await here("order", order, "--json")).out)["state"] == "not finished"
    assert (await here("watch", order)).code == 1
    service.resume()
    assert "RESULT: a" in (await here("order", order)).out


@pytest.mark.parametrize(
    "command",
    [("order",), ("orders",), ("cancel",), ("watch",), ("receipt",), ("receipt", "verify"), ("worker",), ("worker", "show")],
)  # fmt: skip
async def test_help_has_examples_and_exit_codes(avalon, command):
    ran = await avalon(*command, "--help")
    assert ran.code == 0
    assert "Examples" in ran.out
    assert "Exit codes" in ran.out


@pytest.fixture
def token_file(http_service, tmp_path):
    http_service.service.operator_token = "a-token-of-more-than-thirty-two-characters"
    path = tmp_path / "operator-token"
    path.touch(0o600)
    path.write_text(http_service.service.operator_token)
    return str(path)


async def test_the_operator_cancels_an_order_that_is_in_no_journal(http_service, avalon, here, token_file):
    http_service.service.pause()
    order = await here.submit()
    for arguments, code in ((["--url", http_service.url], 2), (["--token-file", token_file], 0)):
        ran = await avalon(
            "cancel", order, *arguments, AVALON_URL=http_service.url, AVALON_ORDERS_DIR=f"{here.orders}-none"
        )
        assert ran.code == code, ran.err
    assert ran.out == f"{order}  cancelled\n"
    assert "cancelled" in (await here("order", order)).out


async def test_requesters_keys(http_service, here, token_file, key_file, tmp_path):
    pem = SigningKey.generate().verification_key.pem
    public = tmp_path / "public.pem"
    public.write_text(pem)
    common = ("--url", http_service.url, "--token-file", token_file)
    assert (await here("requester", "show-key", "ab", *common)).code == 1
    assert (await here("requester", "set-key", "ab", "--public-key", str(public), *common)).code == 0
    assert (await here("requester", "show-key", "ab", *common)).out == pem
    private = await here("requester", "set-key", "ab", "--public-key", str(key_file("own.pem")), *common)
    assert private.code == 2
    assert "not a secp256k1 public key" in private.err
    removed = await here("requester", "remove-key", "ab", "--json", *common)
    assert json.loads(removed.out) == {"requester_id": "ab", "verifying_key": None}


async def test_a_worker_pushes_its_key(http_service, here, key_file, tmp_path):
    other = SimulatedService(name="other")
    http_service.service.directory.entries[other.worker_id] = other.record()
    pem = tmp_path / "rsa.pem"
    pem.write_text(other._keys.rsa.public_key.pem)
    ran = await here(
        "worker", "push-key", other.worker_id, "--encryption-key", str(pem), "--key", str(key_file("w.pem")),
        "--url", http_service.url,
    )  # fmt: skip
    assert ran.code == 1
    assert "does not verify" in ran.err
