"""The ``avalon`` command's orders, receipts and workers, and the SDK behind it, against a real service."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from service_process import AVALON, WORKER_ID, WORKER_NAME, ServiceProcess

from avalon_core.crypto.signing import SigningKey
from avalon_sdk import (
    AvalonClient,
    OrderFailed,
    OrderState,
    ReceiptStatus,
    ServiceError,
    TokenFile,
    WorkerStatus,
)
from avalon_sdk.testing import SimulatedService

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.filterwarnings("ignore::avalon_sdk.trust.SimulatedWorkerWarning"),
]

Start = Callable[..., ServiceProcess]
EXAMPLES = Path(__file__).parents[2] / "examples"


class Command:
    """``avalon`` as a user runs it, with a journal of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("AVALON_")} | {
            "AVALON_URL": url,
            "AVALON_ORDERS_DIR": str(home / "orders"),
            "COLUMNS": "200",
        }

    def __call__(self, *arguments: str, code: int = 0) -> str:
        ran = self.run(AVALON, *arguments)
        assert ran.returncode == code, (ran.returncode, ran.stdout, ran.stderr)
        assert "Traceback" not in ran.stderr
        return ran.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def avalon(service: ServiceProcess, tmp_path: Path) -> Command:
    return Command(service.url, tmp_path)


@pytest.fixture
def slow(start: Start, slow_workload: Path) -> ServiceProcess:
    """A service with workloads that take their time."""
    return start(environment={"PYTHONPATH": str(slow_workload)}).wait_ready()


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = tmp_path / "me.pem"
    path.touch(0o600)
    path.write_bytes(
        ec.generate_private_key(ec.SECP256K1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(path)


def test_an_order_from_one_process_to_another_with_its_receipt(avalon: Command, key_file: str) -> None:
    order = avalon("submit", "echo-result", "hello", "--no-wait").strip()
    assert "RESULT: hello" in avalon("order", order[:12], "--wait")
    avalon("watch", order)
    avalon("receipt", "create", order, "--key", key_file)
    verified = json.loads(avalon("receipt", "verify", order, "--key", key_file, "--json"))
    assert (verified["worker_agrees"], verified["status_name"]) == (True, "processed")
    assert "completed by the requester" in avalon("receipt", "update", order, "completed", "--key", key_file)
    assert order in avalon("receipt", "list", "--worker-id", WORKER_ID, "--status", "completed")
    [listed] = json.loads(avalon("orders", "--json"))["orders"]
    assert (listed["work_order_id"], listed["state"]) == (order, "completed")
    assert avalon("orders", "--prune") == "1 removed, 0 left\n"
    # What is finished cannot be cancelled, and what is not in the journal cannot be opened.
    avalon("cancel", order, code=2)
    assert "completed" in avalon("order", order)


def test_one_worker_check_by_check(avalon: Command) -> None:
    shown = avalon("worker", "show", WORKER_NAME)
    assert "SIMULATED" in shown
    assert "passed          code identity" in shown
    assert "remedy" in avalon("worker", "show", WORKER_ID, "--measurement", "00" * 32, code=4)
    avalon("worker", "show", "nobody", code=3)


async def test_a_long_order_is_watched_and_cancelled(slow: ServiceProcess, tmp_path: Path) -> None:
    avalon = Command(slow.url, tmp_path)
    order = avalon("submit", "test-sleep", "20", "--no-wait").strip()
    async with AvalonClient(slow.url) as client:
        handle = await client.submit("test-sleep", ["20"])
        states: list[OrderState] = []

        async def follow() -> None:
            states.extend([event.state async for event in handle.events(timeout=30)])

        following = asyncio.create_task(follow())
        async with asyncio.timeout(20):
            async for event in handle.events():
                if event.state is OrderState.PROCESSING:
                    break
        assert await handle.cancel() is OrderState.CANCELLED
        await following
        assert states[-1] is OrderState.CANCELLED
        with pytest.raises(OrderFailed):
            await handle.result()
    assert json.loads(avalon("order", order, "--json"))["state"] in ("processing", "scheduled")
    assert avalon("cancel", order) == f"{order}  cancelled\n"
    assert "cancelled" in avalon("watch", order, code=1)
    avalon("cancel", order)


async def test_an_enclave_that_dies_is_seen_as_put_back_and_the_order_is_finished(
    slow: ServiceProcess,
) -> None:
    async with AvalonClient(slow.url) as client:
        handle = await client.submit("test-sleep", ["1"])
        seen: list[str] = []
        async for event in handle.events(timeout=60):
            seen.append("put back" if event.was_put_back else event.state.value)
            if seen.count("processing") == 1 and "killed" not in seen:
                seen.append("killed")
                for enclave in slow.enclaves():
                    enclave.kill()
        assert (seen[-1], "put back" in seen) == ("completed", True)
        assert (await handle.result()).texts() == ["slept"]


async def test_the_worker_s_word_on_a_failure_is_in_the_receipt(start: Start, slow_workload: Path) -> None:
    service = start(environment={"PYTHONPATH": str(slow_workload)}).wait_ready()
    signer = SigningKey.generate()
    async with AvalonClient(service.url) as client:
        handle = await client.submit("test-raise", ["x"], signer=signer)
        with pytest.raises(OrderFailed):
            await handle.result()
        await client.create_receipt(handle, signer)
        receipt = await client.retrieve_receipt(handle)
        assert receipt.status == ReceiptStatus.FAILED
        assert receipt.worker_says is not None
        assert receipt.worker_says.agrees_with == "failure"
        cancelled = await client.submit("test-sleep", ["20"], signer=signer)
        await client.create_receipt(cancelled, signer)
        await cancelled.cancel(signer=signer)
        receipt = await client.retrieve_receipt(cancelled)
        assert receipt.worker_says is not None
        assert receipt.worker_says.agrees_with == "unanswered"


async def test_the_operator_and_a_worker_write_to_the_directory(
    service: ServiceProcess, avalon: Command, tmp_path: Path
) -> None:
    token = service.data_dir / "operator-token"
    other = SimulatedService(name=f"other-{os.getpid()}")
    details = msgspec.json.encode(other.record()["details"])
    async with AvalonClient(service.url, operator_token=TokenFile(token)) as operator:
        await operator.register_worker(other.worker_id, details, organization_id="abcd")
        found = [listed.worker_id async for listed in operator.look_up_workers(organization_id="abcd")]
        assert found == [other.worker_id]
        worker = await operator.find_worker(WORKER_NAME)
        grant = await operator.encryption_key(worker)
        assert grant.encryption_key == worker.record.details.worker_type_data.encryption_key
        with pytest.raises(ServiceError, match="no newer key"):
            await operator.encryption_key(worker, last_used_key_nonce=grant.encryption_key_nonce)
    async with AvalonClient(service.url) as anybody:
        with pytest.raises(ServiceError, match="needs authority"):
            await anybody.set_worker_status(other.worker_id, WorkerStatus.ACTIVE)
        with pytest.raises(ServiceError, match="signature does not verify"):
            await anybody.set_worker_status(
                other.worker_id, WorkerStatus.ACTIVE, signer=SigningKey.generate()
            )
        key = other._signing_key
        await anybody.set_worker_status(other.worker_id, WorkerStatus.OFF_LINE, signer=key)
        await anybody.update_worker(other.worker_id, details, signer=key)
    avalon("worker", "set-status", other.worker_id, "decommissioned", "--token-file", str(token))
    assert "decommissioned" in avalon("worker", "show", other.worker_id, "--policy", "development")


def test_the_examples_run_against_a_real_service(avalon: Command) -> None:
    for name in ("one_order", "blocking", "many_orders", "third_party_data", "receipts"):
        ran = avalon.run(sys.executable, str(EXAMPLES / f"{name}.py"))
        assert ran.returncode == 0, (name, ran.stdout, ran.stderr)
    assert avalon.run(sys.executable, str(EXAMPLES / "trust_policy.py")).returncode == 4
