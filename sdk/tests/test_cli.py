"""The command as a process of its own, against a service on loopback."""

import asyncio
import base64
import json
import os
import pty
import signal
import sys
import time

import pytest
from aiohttp import web
from msgspec.structs import replace

from avalon_core.protocol.errors import WorkOrderError

pytestmark = pytest.mark.acceptance


async def test_submit_prints_each_output_and_says_simulated(http_service, avalon):
    ran = await avalon("submit", "echo-result", "hello", "world", "--url", http_service.url)
    assert (ran.code, ran.out) == (0, "RESULT: hello\nRESULT: world\n")
    assert ran.err.strip() == (
        "SIMULATED: no hardware protects this order; the worker's operator can read all of it"
    )


async def test_items_from_a_file_from_standard_input_and_with_an_at_sign(http_service, avalon, tmp_path):
    path = tmp_path / "item"
    path.write_bytes(b"from a file")
    ran = await avalon(
        "submit", "echo-result", f"@{path}", "-", "@@at", "--json",
        stdin=b"\xff\xfe", AVALON_URL=http_service.url,
    )  # fmt: skip
    answer = json.loads(ran.out)
    assert answer["outputs"] == [
        {"index": 0, "text": "RESULT: from a file"},
        {"index": 1, "base64": base64.b64encode(b"RESULT: \xff\xfe").decode()},
        {"index": 2, "text": "RESULT: @at"},
    ]
    assert answer["simulated"] is True
    assert answer["suite"] == "~avalon-hpke-1"
    assert answer["worker_id"] == http_service.service.worker_id


async def _refuse_result(http_service):
    http_service.service.forge_result = lambda result: replace(result, worker_nonce="AAAA")


async def _fail(http_service):
    http_service.service.failure = WorkOrderError(1, "no such thing \x1b[31m")


async def _pause(http_service):
    http_service.service.pause()


async def _strip_evidence(http_service):
    http_service.service.forge_record = lambda r: r["details"]["workerTypeData"].update(proofData=None)


@pytest.mark.parametrize(
    ("what", "prepare", "arguments", "code", "said"),
    [
        ("a failed order", _fail, (), 1, "no such thing ?[31m"),
        ("an unknown suite", None, ("--suite", "rot13"), 2, "expected one of"),
        ("a file that is not there", None, ("@/no/such/file",), 2, "cannot be read"),
        ("a measurement that is none", None, ("--measurement", "abc"), 2, "64 hex digits"),
        ("a worker that is not there", None, ("--worker", "nobody"), 3, "has no worker"),
        ("evidence stripped", _strip_evidence, (), 4, "could not check"),
        ("a measurement of another enclave", None, ("--measurement", "00" * 32), 4, "not trusted"),
        ("a changed result", _refuse_result, (), 4, "signature"),
        ("an order that takes too long", _pause, ("--timeout", "1"), 5, "has no result"),
    ],
)
async def test_exit_codes_and_one_paragraph(http_service, avalon, what, prepare, arguments, code, said):
    if prepare is not None:
        await prepare(http_service)
    ran = await avalon("submit", "echo-result", "a", *arguments, "--url", http_service.url, "--json")
    assert ran.code == code
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert json.loads(ran.out)["error"]["message"]


async def test_nobody_there_is_exit_code_3(avalon):
    ran = await avalon("submit", "echo-result", "a", "--url", "http://127.0.0.1:1")
    assert ran.code == 3
    assert ran.out == ""
    assert "connection refused" in ran.err
    assert "avalon up" in ran.err
    assert len(ran.err.strip().splitlines()) == 1


async def test_debugging_shows_the_traceback(avalon):
    ran = await avalon("submit", "echo-result", "a", "--url", "http://127.0.0.1:1", AVALON_DEBUG="1")
    assert "Traceback" in ran.err


async def test_usage_is_exit_code_2(avalon):
    assert (await avalon("submit")).code == 2
    assert (await avalon("no-such-command")).code == 2


async def test_policy_file(http_service, avalon, tmp_path):
    policy = tmp_path / "trust.toml"
    policy.write_text("")
    refused = await avalon("submit", "echo-result", "a", "--policy", str(policy), "--url", http_service.url)
    assert refused.code == 4
    accepted = await avalon(
        "submit", "echo-result", "a", "--policy", "development", "--url", http_service.url
    )
    assert accepted.code == 0


async def test_workers(http_service, avalon):
    service = http_service.service
    http_service.status = {
        "workers": [{"worker_id": service.worker_id, "name": "simulated-worker", "new": 1}]
    }
    ran = await avalon("workers", "--url", http_service.url)
    assert ran.code == 0
    for expected in (
        "simulated-worker",
        "SIMULATED",
        "active",
        "mode        SIMULATED sgx",
        "trusted: ",
        "~avalon-hpke-1",
        "any items",
    ):
        assert expected in ran.out
    assert "\x1b" not in ran.out
    listed = json.loads((await avalon("workers", "--url", http_service.url, "--json")).out)["workers"]
    assert [(w["worker_id"], w["name"], w["simulated"], w["trusted"]) for w in listed] == [
        (service.worker_id, "simulated-worker", True, True)
    ]


async def test_texts_of_the_service_do_not_reach_the_terminal_as_they_are(http_service, avalon):
    def forge(record):
        record["details"]["workloads"][0]["title"] = "\x1b]0;owned\x07[red]"

    http_service.service.forge_record = forge
    ran = await avalon("workers", "--url", http_service.url)
    assert "?]0;owned?[red]" in ran.out


@pytest.mark.parametrize(
    "status", [None, {"profile": "development", "orders": {"completed": 3}, "later": []}, [], "x"]
)
async def test_status_of_a_service_with_and_without_a_status_page(http_service, avalon, status):
    http_service.status = status
    ran = await avalon("status", "--url", http_service.url)
    assert ran.code == 0
    assert "up, ready" in ran.out
    assert "SIMULATED" in ran.err
    if isinstance(status, dict):
        assert "3 completed" in ran.out
    told = json.loads((await avalon("status", "--url", http_service.url, "--json")).out)
    assert (told["healthy"], told["ready"], told["simulated"]) == (True, True, True)


async def test_status_of_a_service_that_is_not_ready(http_service, avalon):
    http_service.ready = False
    ran = await avalon("status", "--url", http_service.url)
    assert ran.code == 3
    assert "not ready: no worker yet" in ran.out
    assert (await avalon("status", "--url", "http://127.0.0.1:1")).code == 3


async def test_doctor(http_service, avalon, tmp_path):
    good = await avalon("doctor", "--url", http_service.url, "--data-dir", str(tmp_path / "new"))
    assert good.code == 0, good.out
    for expected in (
        "ok       python",
        "MLKEM768-X25519 works",
        "secp256k1",
        "service",
        "clock",
        "SIMULATED",
    ):
        assert expected in good.out
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    bad = await avalon("doctor", "--url", "http://127.0.0.1:1", "--data-dir", str(in_the_way / "x"), "--json")
    verdicts = {check["name"]: check["verdict"] for check in json.loads(bad.out)["checks"]}
    assert bad.code == 1
    assert verdicts["service"] == verdicts["data directory"] == "failed"
    assert verdicts["workers"] == verdicts["clock"] == "skipped"


async def test_help_tells_examples_and_exit_codes(avalon):
    ran = await avalon("submit", "--help")
    assert ran.code == 0
    assert "Examples" in ran.out
    assert "time is up" in ran.out
    assert (await avalon("--version")).out.startswith("avalon ")


async def test_help_comes_quickly(avalon):
    times = []
    for _ in range(3):
        started = time.process_time(), os.times()
        await avalon("--help")
        ended = os.times()
        times.append(
            ended.children_user
            + ended.children_system
            - started[1].children_user
            - started[1].children_system
        )
    assert min(times) < 0.6  # processor time; 0.3 where nothing else runs


async def test_interrupting_ends_quietly(http_service, avalon):
    waiting, over = asyncio.Event(), asyncio.Event()

    async def wait_forever(request: web.Request, body: bytes) -> None:
        waiting.set()
        await over.wait()

    http_service.misbehave = wait_forever
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from avalon_sdk.cli import main; main()",
        "submit", "echo-result", "a", "--url", http_service.url,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await waiting.wait()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    over.set()
    assert process.returncode == 130
    assert b"Traceback" not in err


async def test_a_terminal_is_told_each_step(http_service):
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from avalon_sdk.cli import main; main()",
        "submit", "echo-result", "a", "--url", http_service.url,
        stdout=asyncio.subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    out, _ = await process.communicate()
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # the end of a pseudo-terminal
    os.close(ours)
    assert out == b"RESULT: a\n"
    steps = [
        b"SIMULATED",
        b"worker checked",
        b"bytes in ~avalon-hpke-1",
        b"work order ",
        b"executed ",
        b"verified ",
    ]
    assert [shown.index(step) for step in steps] == sorted(shown.index(step) for step in steps)
