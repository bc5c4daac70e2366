"""Each example as a process of its own, as a reader would run it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from avalon_sdk.testing import MEASUREMENT

pytestmark = pytest.mark.acceptance

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(http_service, tmp_path):
    async def run(name: str, *arguments: str, **env: str) -> tuple[int, str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AVALON_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error::ResourceWarning",
            "-W",
            "error::RuntimeWarning",
            str(EXAMPLES / name),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean | {"AVALON_URL": http_service.url, "AVALON_ORDERS_DIR": str(tmp_path / "orders")} | env,
        )
        out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return process.returncode or 0, out.decode(), err.decode()

    return run


async def test_one_order(example, http_service):
    assert (await example("one_order.py"))[:2] == (0, "RESULT: hello\nRESULT: world\n")
    http_service.service.forge_record = lambda r: r["details"]["workerTypeData"].update(proofData=None)
    code, _, err = await example("one_order.py")
    assert (code, "could not check: evidence" in err) == (4, True)


async def test_blocking(example):
    code, out, _ = await example("blocking.py")
    assert code == 0
    assert out.splitlines()[1:] == ["completed", "RESULT: hello"]


async def test_many_orders(example):
    code, out, err = await example("many_orders.py", ORDERS="20")
    assert (code, out) == (0, "20 done, 0 failed\n")
    assert "20 of 20" in err


async def test_later(example):
    code, out, _ = await example("later.py", "send")
    assert code == 0
    assert (await example("later.py", "fetch", out.strip()))[:2] == (0, "RESULT: for later\n")
    assert (await example("later.py"))[0] == 1


async def test_third_party_data(example):
    code, out, _ = await example("third_party_data.py")
    assert code == 0
    assert out == (
        "the researcher reads: ['RESULT: my question']\nthe insurer reads: RESULT: a patient's record\n"
    )


async def test_receipts(example):
    code, out, _ = await example("receipts.py")
    assert code == 0
    assert out.splitlines() == [
        "RESULT: hello",
        "the receipt is completed:",
        "  processed by the worker",
        "  completed by the requester",
    ]


async def test_trust_policy(example, tmp_path):
    code, out, _ = await example("trust_policy.py")
    assert (code, "failed          code identity" in out) == (4, True)
    policy = tmp_path / "trust.toml"
    policy.write_text((EXAMPLES / "trust.toml").read_text().replace("0" * 64, MEASUREMENT))
    assert (await example("trust_policy.py", str(policy)))[:2] == (
        0,
        "RESULT: hello (SIMULATED: nothing is protected)\n",
    )


def test_every_example_is_listed_and_run():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    index = (EXAMPLES / "README.md").read_text()
    tested = Path(__file__).read_text()
    assert names
    assert all(f"[{name}]" in index and f'"{name}"' in tested for name in names)
