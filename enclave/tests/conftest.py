"""An enclave process as its host drives it, and orders as a requester makes them."""

import os
import select
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from avalon_core.attestation import TrustPolicy, appraise_worker
from avalon_core.channel.frames import FrameDecoder, encode_frame
from avalon_core.channel.messages import (
    Configure,
    Done,
    Failed,
    Log,
    Parked,
    Process,
    Started,
    ToEnclave,
    ToHost,
    decode_to_host,
    encode_message,
)
from avalon_core.crypto.dialects import WorkerPublicKeys
from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, open_result, seal_order
from avalon_core.crypto.signing import VerificationKey
from avalon_core.protocol.ids import HexStr, RequesterId, WorkOrderId, worker_id_of, workload_id_of
from avalon_core.protocol.orders import FORMAT_HPKE, decode_result, encode_request
from avalon_core.protocol.workers import WorkerDetails, WorkerRecord, decode_details

WORKER_NAME = "test worker"
SUITES = (FORMAT_HPKE, "avalon", "eea-1.1")

TEST_WORKLOADS = """
import os, sys, time
from avalon_enclave.workloads import Context, Isolation, Item, ItemByItem, Limits

class Base(ItemByItem):
    title = input_help = "test"
    limits = Limits(seconds=5.0)

class Shout(Base):
    name = "test-shout"
    def answer(self, data, context):
        return data.upper()

class Pid(Base):
    name = "test-pid"
    def answer(self, data, context):
        return str(os.getpid()).encode()

class Raise(Base):
    name = "test-raise"
    def answer(self, data, context):
        raise ValueError("secret: " + data.decode())

class RaiseThread(Raise):
    name = "test-raise-thread"
    limits = Limits(isolation=Isolation.THREAD)

class ExitThread(Base):
    name = "test-exit-thread"
    limits = Limits(isolation=Isolation.THREAD)
    def answer(self, data, context):
        sys.exit(data.decode())

class Sleep(Base):
    name = "test-sleep"
    limits = Limits(seconds=0.5)
    def answer(self, data, context):
        time.sleep(float(data))
        return b"slept"

class SleepLong(Sleep):
    name = "test-sleep-long"
    limits = Limits(seconds=30.0)

class Store(Sleep):
    name = "test-store"
    limits = Limits(max_item_bytes=16 << 20, seconds=60.0)
    def answer(self, data, context):
        time.sleep(60)

class SleepThread(Sleep):
    name = "test-sleep-thread"
    limits = Limits(seconds=0.5, isolation=Isolation.THREAD)

class Print(Base):
    name = "test-print"
    def answer(self, data, context):
        print(data.decode(), flush=True)
        print(data.decode(), file=sys.stderr, flush=True)
        os.write(1, data); os.write(2, data)
        return b"printed"

class PrintThread(Print):
    name = "test-print-thread"
    limits = Limits(isolation=Isolation.THREAD)

class Large(Base):
    name = "test-large"
    limits = Limits(max_output_bytes=1000)
    def answer(self, data, context):
        return b"x" * int(data)

class Hungry(Base):
    name = "test-hungry"
    limits = Limits(memory_bytes=512 * 1024 * 1024)
    def answer(self, data, context):
        return b"x" * len(b"y" * (2 << 30))

class Die(Base):
    name = "test-die"
    def answer(self, data, context):
        os._exit(3)

class Environment(Base):
    name = "test-environment"
    def answer(self, data, context):
        return repr((sorted(os.environ), sorted(os.listdir("/proc/self/fd")))).encode()

class NotAWorkload:
    pass
"""


@dataclass
class Enclave:
    """One end of a channel, and the process at the other."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    logs: list[Log] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    started: Started | None = None
    _decoder: FrameDecoder = field(default_factory=FrameDecoder)
    _handles: int = 0
    _pending: list[ToHost] = field(default_factory=list)

    def send(self, message: ToEnclave) -> None:
        self.socket.sendall(encode_frame(encode_message(message)))

    def receive(self, seconds: float = 20.0) -> ToHost:
        """The next message that is neither a log event nor Parked."""
        deadline = time.monotonic() + seconds
        while True:
            while self._pending:
                message = self._pending.pop(0)
                if isinstance(message, Log):
                    self.logs.append(message)
                elif isinstance(message, Parked):
                    self.parked.append(message.handle)
                else:
                    return message
            ready, _, _ = select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("the enclave says nothing")
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the enclave closed the channel")
            self._pending += [decode_to_host(payload) for payload in self._decoder.feed(data)]

    def quiet(self, seconds: float) -> bool:
        """Nothing but log events comes for so long."""
        try:
            self.receive(seconds)
        except TimeoutError:
            return True
        return False

    def configure(self, **changes: object) -> Started:
        values = {"worker_name": WORKER_NAME, "keys": "fresh", "accept_legacy": True} | changes
        self.send(Configure(**values))  # type: ignore[arg-type]
        started = self.receive()
        assert isinstance(started, Started)
        self.started = started
        return started

    @property
    def details(self) -> WorkerDetails:
        assert self.started is not None
        return decode_details(self.started.details)

    @property
    def keys(self) -> tuple[WorkerPublicKeys, VerificationKey]:
        record = WorkerRecord(
            worker_type=1, organization_id="", application_type_id="", details=self.details, status=1
        )
        report, worker = appraise_worker(
            record,
            TrustPolicy.development({self.started.measurement}),
            worker_id=worker_id_of(WORKER_NAME),
            as_of=datetime.now(UTC),
        )
        report.raise_for_verdict()
        return worker.public_keys, worker.verification_key

    def submit(self, sealed: SealedOrder, **more: object) -> int:
        self._handles += 1
        self.send(Process(handle=self._handles, request=encode_request(sealed.request), **more))
        return self._handles

    def seal(self, workload: str, *texts: bytes, suite: str = FORMAT_HPKE, **changes: object) -> SealedOrder:
        return seal_order(draft(workload, *texts, **changes), self.keys[0], suite=suite)

    def ask(
        self, workload: str, *texts: bytes, suite: str = FORMAT_HPKE, within: float = 20.0
    ) -> list[bytes] | Failed:
        sealed = self.seal(workload, *texts, suite=suite)
        handle = self.submit(sealed)
        answer = self.receive(within)
        assert answer.handle == handle
        return answer if isinstance(answer, Failed) else self.open(sealed, answer)

    def open(self, sealed: SealedOrder, done: ToHost) -> list[bytes]:
        assert isinstance(done, Done), done
        return [item.data for item in open_result(sealed, decode_result(done.result), self.keys[1])]

    def wait(self, seconds: float = 15.0) -> int:
        return self.process.wait(seconds)

    def end(self) -> tuple[bytes, bytes]:
        self.socket.close()
        try:
            out, err = self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return out, err


def draft(workload: str, *texts: bytes, **changes: object) -> OrderDraft:
    values = {
        "work_order_id": WorkOrderId(os.urandom(32).hex()),
        "worker_id": worker_id_of(WORKER_NAME),
        "workload_id": workload_id_of(workload),
        "requester_id": RequesterId("ab" * 32),
        "requester_nonce": HexStr(os.urandom(16).hex()),
        "inputs": [Item(index=index, data=text) for index, text in enumerate(texts)],
    }
    return OrderDraft(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def extra_workloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like an installed distribution of workloads."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "avalon_test_workloads.py").write_text(textwrap.dedent(TEST_WORKLOADS))
    info = folder / "avalon_test_workloads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: avalon-test-workloads\nVersion: 1.0\n")
    names = {
        "test-shout": "Shout",
        "test-pid": "Pid",
        "test-raise": "Raise",
        "test-raise-thread": "RaiseThread",
        "test-exit-thread": "ExitThread",
        "test-sleep": "Sleep",
        "test-sleep-long": "SleepLong",
        "test-store": "Store",
        "test-sleep-thread": "SleepThread",
        "test-print": "Print",
        "test-print-thread": "PrintThread",
        "test-large": "Large",
        "test-hungry": "Hungry",
        "test-die": "Die",
        "test-environment": "Environment",
        "test-missing": "Missing",
        "test-not-a-workload": "NotAWorkload",
    }
    lines = [f"{name} = avalon_test_workloads:{value}" for name, value in names.items()]
    (info / "entry_points.txt").write_text("\n".join(["[avalon.workloads]", *lines, ""]))
    return folder


def launch_quoting(path: Path) -> subprocess.Popen[bytes]:
    """A quoting process that serves a socket which listens already: enclaves queue there while it starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        return subprocess.Popen(
            [sys.executable, "-m", "avalon_service.quoting", "--listen", f"fd:{listening.fileno()}"],
            pass_fds=(listening.fileno(),),
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture(scope="session")
def launch_quoting_at() -> Callable[[Path], subprocess.Popen[bytes]]:
    """How a test starts a quoting process of its own."""
    return launch_quoting


@pytest.fixture(scope="session")
def quoting_socket() -> Iterator[Path]:
    """Where a SIMULATED quoting process listens: one for all tests, as one machine has."""
    # A short name: paths of Unix sockets have at most 107 bytes.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "quoting"
        process = launch_quoting(path)
        yield path
        process.terminate()
        process.wait(10)


StartEnclave = Callable[..., Enclave]
LEGACY: Mapping[str, str] = {"accept_legacy": "true"}
"""What :meth:`Enclave.configure` configures unless told otherwise."""


@pytest.fixture
def start_enclave(quoting_socket: Path) -> Iterator[StartEnclave]:
    """Start an enclave process, not configured yet. ``told``: what is said at launch of the configuration to come."""
    running: list[Enclave] = []

    def start(
        *arguments: str,
        site: Path | None = None,
        platform: str = "simulated",
        told: Mapping[str, str] = LEGACY,
    ) -> Enclave:
        if platform == "simulated":
            arguments = ("--quoting-socket", str(quoting_socket), *arguments)
        arguments += tuple(f"--measured={name}={value}" for name, value in told.items())
        ours, theirs = socket.socketpair()
        environment = dict(os.environ) | ({"PYTHONPATH": str(site)} if site else {}) | {"HOST_SECRET": "x"}
        with theirs:
            process = subprocess.Popen(
                [
                    *(
                        sys.executable,
                        "-P",
                        "-m",
                        "avalon_enclave",
                        "--role",
                        "singleton",
                        "--platform",
                        platform,
                    ),
                    *("--channel", f"fd:{theirs.fileno()}", *arguments),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        enclave = Enclave(process=process, socket=ours)
        running.append(enclave)
        return enclave

    yield start
    for enclave in running:
        enclave.socket.close()
        try:
            enclave.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            enclave.process.kill()
            enclave.process.communicate()
            raise


@pytest.fixture
def enclave(start_enclave: StartEnclave) -> Enclave:
    """An enclave that is configured for development."""
    started = start_enclave()
    started.configure()
    return started


@pytest.fixture
def extended(start_enclave: StartEnclave, extra_workloads: Path) -> Enclave:
    """The same, with the test workloads installed."""
    started = start_enclave(site=extra_workloads)
    started.configure()
    return started


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_draft() -> Callable[..., OrderDraft]:
    return draft
