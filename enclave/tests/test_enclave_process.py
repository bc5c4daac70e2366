"""The real process over its channel, as a host drives it."""

import ast
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from avalon_core.channel.messages import (
    Cancel,
    Configure,
    Done,
    EvidenceRefreshed,
    Failed,
    Ping,
    Pong,
    Process,
    RefreshEvidence,
    Shutdown,
)
from avalon_core.protocol.errors import WorkOrderCode
from avalon_enclave.errors import StartRefused
from avalon_enclave.host_channel import open_channel
from avalon_enclave.measurement import measure


def test_an_order_is_answered_in_its_own_suite(enclave, suite):
    assert enclave.ask("echo-result", b"hello", b"\xff\0bytes", suite=suite) == [
        b"RESULT: hello",
        b"RESULT: \xff\0bytes",
    ]


def test_the_record_passes_appraisal_and_tells_what_is_offered(enclave):
    details = enclave.details
    assert details.work_order_payload_formats == "JSON-RPC,~avalon-hpke-1"
    assert details.worker_type_data.simulated
    assert {workload.name for workload in details.workloads} == {
        "echo-result",
        "python-hello",
        "python-fib",
        "heart-disease-eval",
    }
    assert enclave.started.simulated
    assert enclave.started.platform == "simulated"
    assert enclave.started.sealed_keys is None
    assert enclave.quiet(0.2)
    assert "simulated_platform" in [log.event for log in enclave.logs]


def test_many_orders_at_a_time_are_each_answered_once(enclave):
    sealed = {}
    for number in range(60):
        order = enclave.seal(
            "python-hello", str(number).encode(), suite=("~avalon-hpke-1", "avalon")[number % 2]
        )
        sealed[enclave.submit(order)] = (order, number)
    for _ in range(60):
        done = enclave.receive()
        order, number = sealed.pop(done.handle)
        assert enclave.open(order, done) == [f"Hello {number}".encode()]
    assert enclave.quiet(0.2)


def test_legacy_orders_are_marked_where_allowed_and_refused_where_not(start_enclave):
    for allowed in (True, False):
        enclave = start_enclave(told={"accept_legacy": "true"} if allowed else {})
        enclave.configure(accept_legacy=allowed)
        enclave.submit(enclave.seal("echo-result", b"x", suite="eea-1.1"))
        answer = enclave.receive()
        if allowed:
            assert isinstance(answer, Done)
            assert answer.legacy
            assert enclave.quiet(0.2)
            assert "legacy_order_accepted" in [log.event for log in enclave.logs]
        else:
            assert answer.code == WorkOrderCode.INVALID_PARAMETER
            assert "sessionKeyIv" in answer.message


def test_an_order_of_sixteen_mebibytes(enclave):
    large = bytes(16 * 1024 * 1024)
    assert enclave.ask("echo-result", large) == [b"RESULT: " + large]


# --- the channel -------------------------------------------------------------------------------------------------


def test_the_end_of_the_channel_ends_it(enclave):
    enclave.socket.close()
    assert enclave.wait(5) == 0


def test_the_end_of_the_channel_before_configure_ends_it(start_enclave):
    enclave = start_enclave()
    enclave.socket.close()
    assert enclave.wait(10) == 0


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\5hello", b"\xff\xff\xff\xffx"], ids=["no message", "a frame over the cap"]
)
def test_garbage_ends_it_with_an_error(enclave, garbage):
    enclave.socket.sendall(garbage)
    with pytest.raises((EOFError, ConnectionError)):
        enclave.receive()
    assert enclave.wait(5) == 4
    assert "channel_broken" in [log.event for log in enclave.logs]


def test_two_orders_under_one_handle_end_it(extended):
    order = extended.seal("test-sleep", b"0.3")
    for _ in range(2):
        extended.submit(order)
        extended._handles = 0
    assert extended.wait(5) == 4


def test_configure_twice_ends_it(enclave):
    enclave.send(Configure(worker_name="other", keys="fresh"))
    assert enclave.wait(5) == 4


def test_shutdown_finishes_what_is_in_flight(extended):
    orders = [extended.seal("test-sleep", b"0.2") for _ in range(3)]
    for order in orders:
        extended.submit(order)
    extended.send(Shutdown())
    assert [type(extended.receive()) for _ in orders] == [Done] * 3
    assert extended.wait(5) == 0


def test_it_is_not_dumpable(enclave):
    of_process = Path(f"/proc/{enclave.process.pid}")
    core = next(
        line for line in (of_process / "limits").read_text().splitlines() if line.startswith("Max core")
    )
    assert core.split()[4:6] == ["0", "0"]
    assert "NoNewPrivs:\t1\n" in (of_process / "status").read_text()


def test_a_ping_is_answered_whatever_is_processed(start_enclave, extra_workloads):
    enclave = start_enclave(site=extra_workloads)
    enclave.configure(threads=1)
    enclave.submit(enclave.seal("test-sleep-thread", b"0.4"))
    enclave.send(Ping(sequence=7))
    assert enclave.receive(0.3) == Pong(sequence=7)
    assert isinstance(enclave.receive(), Done)


# --- start-up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"worker_name": ""}, "worker_name"),
        ({"keys": "old"}, "expected 'fresh' or 'sealed'"),
        ({"threads": 0}, "threads"),
        ({"children": 0}, "children"),
        ({"tenant": ""}, "tenant"),
        ({"keys": "sealed"}, "--platform-state"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_line(start_enclave, changes, expected):
    enclave = start_enclave(told={})
    enclave.send(Configure(**({"worker_name": "w", "keys": "fresh"} | changes)))
    out, err = enclave.process.communicate(timeout=10)
    assert enclave.process.returncode == 2
    assert out == b""
    assert err.count(b"\n") == 1
    assert expected in err.decode()


def test_anything_before_configure_is_refused(start_enclave):
    enclave = start_enclave()
    enclave.send(Shutdown())
    _, err = enclave.process.communicate(timeout=10)
    assert enclave.process.returncode == 2
    assert b"expected Configure" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--channel", "fd:77"], "not an open socket"),
        (["--channel", "carrier pigeon"], "expected fd:N"),
        (["--channel", "tcp:1"], "expected tcp:HOST:PORT"),
        (["--channel", "tcp:127.0.0.1:1"], "the host does not answer"),
        (["--channel", "unix:/nowhere/enclave"], "the host does not answer"),
        (["--channel", "vsock:3"], "expected vsock:CID:PORT"),
        (["--channel", "fd:2"], "not an open socket"),
        (["--role", "queen"], "invalid choice"),
        (["--platform", "guess"], "invalid choice"),
        (["--measured", "tenant"], "expected name=value"),
        (["--measured", "role=kme"], "the name is not role"),
        (["--simulated-kind", "snp"], "invalid choice"),
    ],
)
def test_a_wrong_command_line_says_what_is_expected(start_enclave, arguments, expected):
    enclave = start_enclave(*arguments)
    _, err = enclave.process.communicate(timeout=10)
    assert enclave.process.returncode == 2
    assert expected in err.decode()


# --- keys --------------------------------------------------------------------------------------------------------


def test_sealed_keys_are_restored_and_old_orders_still_open(start_enclave, tmp_path):
    state = tmp_path / "state"
    first = start_enclave("--platform-state", str(state))
    started = first.configure(keys="sealed")
    assert not started.keys_restored
    assert state.stat().st_mode & 0o777 == 0o600
    order = first.seal("echo-result", b"sealed before")
    first.end()

    second = start_enclave("--platform-state", str(state))
    restored = second.configure(keys="sealed", sealed_keys=started.sealed_keys)
    assert restored.keys_restored
    assert restored.sealed_keys != started.sealed_keys
    second.submit(order)
    assert second.open(order, second.receive()) == [b"RESULT: sealed before"]


def test_keys_that_do_not_open_are_refused_and_never_replaced(start_enclave, tmp_path):
    first = start_enclave("--platform-state", str(tmp_path / "state"))
    sealed = first.configure(keys="sealed").sealed_keys
    cases = [
        ("other-state", sealed, {}, "Bring back the platform state"),
        ("state", sealed[:-1] + bytes([sealed[-1] ^ 1]), {}, "was changed"),
        ("state", b"foreign", {}, "not one that a simulated platform sealed"),
        ("state", sealed, {"worker_name": "another"}, "belong to another worker"),
        ("state", sealed, {"tenant": "somebody"}, "belong to another worker"),
    ]
    for state, blob, changes, expected in cases:
        told = {"accept_legacy": "true", **{name: changes[name] for name in changes if name == "tenant"}}
        enclave = start_enclave("--platform-state", str(tmp_path / state), told=told)
        with pytest.raises((EOFError, ConnectionError)):
            enclave.configure(keys="sealed", sealed_keys=blob, **changes)
        _, err = enclave.process.communicate(timeout=10)
        assert enclave.process.returncode == 3
        assert expected in err.decode()
        assert [log.event for log in enclave.logs] == ["keys_not_restored"]


def test_the_measurement_depends_on_code_and_not_on_the_run(start_enclave, extra_workloads):
    plain = [start_enclave().configure().measurement for _ in range(2)]
    assert plain[0] == plain[1]
    assert start_enclave(site=extra_workloads).configure().measurement != plain[0]


def test_what_was_said_at_launch_is_measured_and_nothing_else_can_be_configured(start_enclave):
    told = {"accept_legacy": "true", "tenant": "acme"}
    bound = start_enclave(told=told)
    measured = bound.configure(tenant="acme").measurement
    assert measured == measure("singleton", told)
    assert measured != start_enclave().configure().measurement
    for said, changes in (
        (told, {}),
        ({}, {}),
        (told, {"tenant": "other"}),
        ({"accept_legacy": "true", "more": "x"}, {}),
    ):
        enclave = start_enclave(told=said)
        with pytest.raises((EOFError, ConnectionError)):
            enclave.configure(**changes)
        _, err = enclave.process.communicate(timeout=10)
        assert enclave.process.returncode == 2
        assert b"configures otherwise than this enclave was launched and measured" in err


# --- evidence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expected"), [("sgx", "TEE-SGX-DCAP"), ("tdx", "TEE-TDX")])
def test_its_record_carries_quote_and_collateral_and_says_that_it_is_simulated(start_enclave, kind, expected):
    enclave = start_enclave("--simulated-kind", kind)
    enclave.configure()
    data = enclave.details.worker_type_data
    assert (data.proof_data_type, data.simulated) == (expected, True)
    assert set(data.proof_data) == {"document", "collateral"}
    assert enclave.ask("echo-result", b"x") == [b"RESULT: x"]  # its keys passed


def test_evidence_is_issued_anew_over_the_same_keys(enclave):
    first = enclave.details.worker_type_data
    sealed = enclave.seal("echo-result", b"x")
    enclave.send(RefreshEvidence(7))
    answer = enclave.receive()
    assert isinstance(answer, EvidenceRefreshed)
    assert answer.handle == 7
    enclave.started = replace(enclave.started, details=answer.details)
    second = enclave.details.worker_type_data
    assert second.key_binding.nonce != first.key_binding.nonce
    assert second.key_binding.issued_at >= first.key_binding.issued_at
    assert replace(second, proof_data=None, key_binding=None) == replace(
        first, proof_data=None, key_binding=None
    )
    assert enclave.keys  # appraised
    enclave.submit(sealed)
    assert enclave.open(sealed, enclave.receive()) == [b"RESULT: x"]


def test_a_quoting_process_that_hangs_delays_no_order_and_one_that_is_gone_is_no_reason_to_end(
    start_enclave, launch_quoting_at
):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "quoting"
        quoting = launch_quoting_at(path)
        enclave = start_enclave("--quoting-socket", str(path))
        enclave.configure()
        quoting.send_signal(signal.SIGSTOP)
        enclave.send(RefreshEvidence(1))
        assert enclave.ask("echo-result", b"meanwhile") == [b"RESULT: meanwhile"]
        quoting.kill()
        quoting.wait(10)
        answers = [enclave.receive()]
        enclave.send(RefreshEvidence(2))
        answers.append(enclave.receive())
    for answer in answers:
        assert isinstance(answer, EvidenceRefreshed)
        assert answer.details is None
        assert "gave no answer" in answer.reason
    assert enclave.ask("echo-result", b"after") == [b"RESULT: after"]


@pytest.mark.parametrize("module", ["cryptography.x509", "dcap_qvl", "cbor2", "avalon_core.simulator"])
def test_an_enclave_that_judges_nobody_loads_no_verifier(module):
    """They would cost each enclave memory and start-up time, and belong to what must be trusted."""
    code = (
        "import sys, avalon_enclave.main, avalon_enclave.roles.singleton, avalon_enclave.platforms.simulated;"
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- workloads ---------------------------------------------------------------------------------------------------


def test_broken_workloads_are_skipped_and_reported(extended):
    assert extended.ask("test-shout", b"loud") == [b"LOUD"]
    skipped = {
        log.fields["workload"]: log.fields["error"]
        for log in extended.logs
        if log.event == "workload_skipped"
    }
    assert skipped == {
        "test-missing": "AttributeError",
        "test-not-a-workload": "it is not a subclass of Workload",
    }
    answer = extended.ask("test-missing", b"x")
    assert answer.code == WorkOrderCode.INVALID_WORKLOAD


def test_two_workloads_of_one_name_stop_the_start(start_enclave, tmp_path):
    info = tmp_path / "thief-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thief\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[avalon.workloads]\necho-result = thief:Echo\n")
    enclave = start_enclave(site=tmp_path, told={})
    enclave.send(Configure(worker_name="w", keys="fresh"))
    _, err = enclave.process.communicate(timeout=10)
    assert enclave.process.returncode == 2
    assert b"two workloads are named 'echo-result'" in err


def test_children_stay_warm_and_are_not_the_enclave(extended):
    first, second = extended.ask("test-pid", b""), extended.ask("test-pid", b"")
    assert first == second
    assert first != [str(extended.process.pid).encode()]


def test_a_child_has_neither_the_hosts_environment_nor_the_enclaves_channel(extended):
    [answer] = extended.ask("test-environment", b"")
    assert b"HOST_SECRET" not in answer
    descriptors = ast.literal_eval(answer.decode())[1]
    assert len(descriptors) == 5  # 0, 1, 2, its own channel, and the listing itself


@pytest.mark.parametrize("workload", ["test-raise", "test-raise-thread", "test-exit-thread"])
def test_a_workload_that_raises_fails_its_order_and_tells_nothing(extended, workload):
    answer = extended.ask(workload, b"my diagnosis")
    assert (answer.code, answer.message) == (1, "the workload failed")
    assert extended.ask("echo-result", b"x") == [b"RESULT: x"]
    out, err = extended.end()
    assert out == err == b""
    failed = next(log for log in extended.logs if log.event == "workload_failed")
    assert failed.fields["workload"] == workload
    assert failed.fields["error"] in ("ValueError", "SystemExit")
    assert "diagnosis" not in repr(extended.logs)


@pytest.mark.parametrize("workload", ["test-print", "test-print-thread"])
def test_what_a_workload_prints_reaches_nobody(extended, workload):
    assert extended.ask(workload, b"my diagnosis") == [b"printed"]
    assert extended.end() == (b"", b"")
    assert "diagnosis" not in repr(extended.logs)


def test_a_child_that_overruns_is_killed_and_replaced(extended):
    assert extended.ask("test-sleep", b"0") == [b"slept"]
    began = time.monotonic()
    answer = extended.ask("test-sleep", b"60")
    assert answer.message == "the workload exceeded its limit of 0.5 s"
    assert time.monotonic() - began < 3
    assert extended.ask("test-sleep", b"0") == [b"slept"]
    assert not _children_that(extended, "test-sleep", more_than=1)


def test_a_thread_that_overruns_is_answered_once_and_its_late_result_dropped(extended):
    answer = extended.ask("test-sleep-thread", b"0.8")
    assert answer.message == "the workload exceeded its limit of 0.5 s"
    assert extended.quiet(0.8)
    assert extended.ask("test-sleep-thread", b"0") == [b"slept"]


def test_a_thread_that_never_comes_back_ends_the_enclave(extended):
    answer = extended.ask("test-sleep-thread", b"60")
    assert isinstance(answer, Failed)
    assert extended.wait(5) == 70


@pytest.mark.parametrize("workload", ["test-hungry", "test-die"])
def test_a_child_that_dies_fails_its_order_only(extended, workload):
    assert extended.ask(workload, b"").message == "the workload failed"
    assert extended.ask("echo-result", b"x") == [b"RESULT: x"]


def test_too_much_output_is_refused(extended):
    assert extended.ask("test-large", b"1000") == [b"x" * 1000]
    assert "output" in extended.ask("test-large", b"1001").message


def test_too_much_input_is_refused(extended):
    answer = extended.ask("test-shout", bytes(1024 * 1024 + 1))
    assert answer.code == WorkOrderCode.INVALID_PARAMETER
    answer = extended.ask("test-shout", *[b""] * 65)
    assert "at most 64" in answer.message


def test_cancel_kills_a_running_child_and_drops_what_is_queued(start_enclave, extra_workloads):
    enclave = start_enclave(site=extra_workloads)
    # Each of the workloads has one place: this one's second order waits.
    enclave.configure(threads=1, children=1)
    running = enclave.submit(enclave.seal("test-sleep-long", b"20"))
    queued = enclave.submit(enclave.seal("test-sleep-long", b"20"))
    time.sleep(0.3)
    for handle in (queued, running):
        enclave.send(Cancel(handle=handle))
        assert enclave.receive(2) == Failed(handle=handle, code=1, message="the order was cancelled")
    enclave.send(Cancel(handle=12345))
    assert enclave.ask("echo-result", b"at once") == [b"RESULT: at once"]
    assert enclave.quiet(0.3)


def test_slow_orders_in_processes_delay_nobody_however_many(start_enclave, extra_workloads):
    enclave = start_enclave(site=extra_workloads)
    enclave.configure(threads=2, children=2)
    slow = [enclave.submit(enclave.seal("test-sleep-long", b"60")) for _ in range(40)]
    assert enclave.ask("echo-result", b"x") == [b"RESULT: x"]
    # Neither in the enclave, nor in another workload's child.
    assert enclave.ask("test-shout", b"loud", within=5.0) == [b"LOUD"]
    began = time.monotonic()
    for number in range(20):
        assert enclave.ask("python-hello", b"%d" % number, within=1.0) == [b"Hello %d" % number]
    assert time.monotonic() - began < 5
    assert set(slow) <= set(enclave.parked)
    for handle in slow:
        enclave.send(Cancel(handle=handle))
    assert {enclave.receive(5).handle for _ in slow} == set(slow)
    assert enclave.ask("test-sleep-long", b"0", within=5.0) == [b"slept"]


def test_hung_children_are_killed_in_their_turn_and_the_next_ones_start(start_enclave, extra_workloads):
    enclave = start_enclave(site=extra_workloads)
    enclave.configure(threads=1, children=2)
    hung = {enclave.submit(enclave.seal("test-sleep", b"60")) for _ in range(3)}
    for _ in range(3):
        answer = enclave.receive(10)
        hung.remove(answer.handle)
        assert answer.message == "the workload exceeded its limit of 0.5 s"


def test_requesters_take_turns_for_children(start_enclave, extra_workloads):
    enclave = start_enclave(site=extra_workloads)
    enclave.configure(threads=1, children=1)
    for _ in range(4):
        enclave.submit(enclave.seal("test-sleep", b"0.3", requester_id="aa"))
    late = enclave.submit(enclave.seal("test-sleep", b"0", requester_id="bb"))
    assert late in [enclave.receive().handle for _ in range(3)]


def test_no_more_orders_are_parked_than_the_enclave_holds_besides(start_enclave, extra_workloads):
    enclave = start_enclave(site=extra_workloads)
    enclave.configure(threads=1, children=1)
    large = bytes(15 * 1024 * 1024)  # 20 MiB in base64: six of them are within 128
    handles = [enclave.submit(enclave.seal("test-store", large)) for _ in range(8)]
    assert enclave.ask("echo-result", b"x", within=20.0) == [b"RESULT: x"]
    assert len(enclave.parked) == 6
    for handle in handles:
        enclave.send(Cancel(handle=handle))
    assert {enclave.receive(5).handle for _ in handles} == set(handles)


def test_warm_children_are_bounded_for_all_workloads_together(start_enclave, extra_workloads):
    enclave = start_enclave(site=extra_workloads)
    enclave.configure(children=2)
    for workload in ("test-shout", "test-pid", "test-environment", "test-large"):
        enclave.ask(workload, b"1")
    time.sleep(0.2)
    assert len(psutil.Process(enclave.process.pid).children()) <= 2


def test_children_die_with_the_enclave(extended):
    [pid] = extended.ask("test-pid", b"")
    extended.process.send_signal(signal.SIGKILL)
    extended.wait()
    child = psutil.Process(int(pid)) if psutil.pid_exists(int(pid)) else None
    deadline = time.monotonic() + 5
    while child is not None and child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_request_that_is_no_json_is_refused(enclave):
    enclave.send(Process(handle=1, request=b"{"))
    assert enclave.receive().code == WorkOrderCode.INVALID_PARAMETER


def _children_that(enclave, workload: str, *, more_than: int) -> bool:
    children = [
        child for child in psutil.Process(enclave.process.pid).children() if workload in child.cmdline()
    ]
    return len(children) > more_than


def test_the_channel_must_be_a_unix_stream_socket():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, pytest.raises(StartRefused, match="stream"):
        open_channel(f"fd:{os.dup(ours.fileno())}")
