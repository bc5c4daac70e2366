"""A real service as a process, as an operator would run it, and a requester who knows nothing but the wire."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil

from avalon_core.attestation import AppraisedWorker, TrustPolicy, appraise_worker
from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, open_result, seal_order
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.errors import GeneralError, WorkOrderError
from avalon_core.protocol.ids import HexStr, RequesterId, WorkOrderId, worker_id_of, workload_id_of
from avalon_core.protocol.jsonrpc import decode_answer, encode_call
from avalon_core.protocol.orders import WorkOrderResult, decode_result, encode_request
from avalon_core.protocol.workers import decode_record

AVALON = str(Path(sys.executable).parent / "avalon")
WORKER_NAME = "singleton-worker-1"
WORKER_ID = worker_id_of(WORKER_NAME)
SUITES = ("~avalon-hpke-1", "avalon", "eea-1.1")
START_SECONDS = 40.0


class ServiceProcess:
    """``avalon up`` on a free port."""

    def __init__(
        self, data_dir: Path, *arguments: str, port: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [AVALON, "up", "--port", str(port), "--data-dir", str(data_dir), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
                text=True,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.ready_line = ""

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def wait_ready(self) -> ServiceProcess:
        """Return when the one ready line is there."""
        try:
            self.ready_line = self._lines.get(timeout=START_SECONDS)
        except queue.Empty:
            self.kill()
            raise AssertionError(f"not ready within {START_SECONDS} s:\n{self.log}") from None
        assert self.ready_line.startswith("avalon ready "), f"did not start:\n{self.log}"
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def url(self) -> str:
        return self.ready_line.split()[2]

    @property
    def port(self) -> int:
        port = urllib.parse.urlsplit(self.url).port
        assert port is not None
        return port

    def enclaves(self) -> list[psutil.Process]:
        """The enclave processes, told by their command line."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _is_enclave(child)]

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._wait()

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process.poll() is None:
            self.process.kill()
        self._wait()

    def _wait(self) -> int:
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def _is_enclave(process: psutil.Process) -> bool:
    try:
        return "avalon_enclave" in process.cmdline()
    except psutil.Error:
        return False


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for something outside of our processes' reach to notify of (another process's state)."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


class Requester:
    """Seals orders with the core alone and speaks JSON-RPC by hand: an independent client."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session
        self.worker: AppraisedWorker | None = None

    async def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        async with self._session.post(
            self.url, data=body, headers={"content-type": "application/json", **headers}
        ) as answer:
            return answer.status, await answer.read()

    async def call(self, method: str, params: Any, *, wait: int = 0) -> Any:
        """The decoded JSON of an answer."""
        headers = {"prefer": f"wait={wait}"} if wait else {}
        status, body = await self.post(encode_call(method, params, 1), **headers)
        assert status == 200, (status, body)
        return msgspec.json.decode(body)

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self._session.get(self.url + path) as answer:
            return answer.status, await answer.read()

    async def meet_worker(self) -> AppraisedWorker:
        _, body = await self.post(encode_call("WorkerRetrieve", {"workerId": WORKER_ID}, 1))
        record = decode_record(decode_answer(body).result_or_raise(GeneralError))
        report, worker = appraise_worker(
            record, TrustPolicy.development(), worker_id=WORKER_ID, as_of=datetime.now(UTC)
        )
        report.raise_for_verdict()
        assert worker is not None
        self.worker = worker
        return worker

    def seal(
        self,
        items: Sequence[bytes],
        *,
        workload: str = "echo-result",
        suite: str = "~avalon-hpke-1",
        timeout_msecs: int = 0,
        requester_id: str | None = None,
        signer: SigningKey | None = None,
        **options: Any,
    ) -> SealedOrder:
        assert self.worker is not None
        draft = OrderDraft(
            work_order_id=WorkOrderId(os.urandom(32).hex()),
            worker_id=WORKER_ID,
            workload_id=workload_id_of(workload),
            requester_id=RequesterId(requester_id or os.urandom(32).hex()),
            requester_nonce=HexStr(os.urandom(16).hex()),
            inputs=[Item(index=index, data=data) for index, data in enumerate(items)],
            response_timeout_msecs=timeout_msecs,
            signer=signer,
        )
        return seal_order(draft, self.worker.public_keys, suite=suite, **options)

    async def submit(self, sealed: SealedOrder, *, wait: int = 0) -> Any:
        return await self.call("WorkOrderSubmit", msgspec.Raw(encode_request(sealed.request)), wait=wait)

    async def result(self, sealed: SealedOrder, *, wait: int = 30) -> Any:
        return await self.call("WorkOrderGetResult", {"workOrderId": sealed.request.work_order_id}, wait=wait)

    def open(self, sealed: SealedOrder, answer: Any) -> list[bytes]:
        """Verify and decrypt the result in an answer."""
        assert self.worker is not None
        assert "result" in answer, answer
        result: WorkOrderResult = decode_result(msgspec.json.encode(answer["result"]))
        return [item.data for item in open_result(sealed, result, self.worker.verification_key)]


def raise_for_error(answer: Any) -> None:
    """Raise the work order error in an answer."""
    if "error" in answer:
        error = answer["error"]
        raise WorkOrderError(error["code"], error["message"], error.get("data"))
