"""``avalon collateral``, as a user types it."""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from avalon_core.attestation.collateral import NO_COLLATERAL
from avalon_core.attestation.evidence import Evidence
from avalon_sdk.cli.app import app
from avalon_sdk.cli.attesting import EvidenceArguments
from avalon_sdk.cli.collecting import FetchOptions, collateral_for, collateral_for_file

Avalon = Callable[..., Result]


@pytest.fixture
def avalon(vendor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Avalon:
    """The command, with the vendor and a cache of its own in the environment."""
    monkeypatch.setenv("AVALON_PCS_URL", vendor.url)
    monkeypatch.setenv("AVALON_KDS_URL", vendor.url)
    monkeypatch.setenv("AVALON_INTEL_ROOT_CRL_URL", f"{vendor.url}/IntelSGXRootCA.der")
    monkeypatch.setenv("AVALON_COLLATERAL_CACHE", str(tmp_path / "cache"))
    runner = CliRunner()

    def call(*arguments: str | Path) -> Result:
        return runner.invoke(app, ["collateral", *map(str, arguments)], catch_exceptions=False)

    return call


@pytest.fixture
def quote(tmp_path: Path, samples: Any) -> Path:
    path = tmp_path / "quote.bin"
    path.write_bytes(samples.sgx().document)
    return path


@pytest.fixture
def report(tmp_path: Path, samples: Any) -> Path:
    path = tmp_path / "report.bin"
    path.write_bytes(samples.snp().document)
    return path


def test_fetch_says_what_came_and_keeps_it(avalon: Avalon, vendor: Any, quote: Path, report: Path) -> None:
    first = avalon("fetch", quote, report)
    assert (first.exit_code, first.stderr) == (0, "")
    lines = first.stdout.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("network ") for line in lines)
    assert lines[0].endswith("SGX TCB info of FMSPC 53494d000000")
    again = avalon("fetch", quote, report, "--json")
    pieces = json.loads(again.stdout)["pieces"]
    assert {piece["origin"] for piece in pieces} == {"cache"}
    assert len(vendor.asked) == 7


def test_export_and_import_and_verify(
    avalon: Avalon, vendor: Any, quote: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.json"
    exported = avalon("export", quote, report, "--out", bundle)
    assert (exported.exit_code, exported.stderr) == (0, "")
    assert exported.stdout.splitlines()[-1] == f"written to {bundle}"
    for evidence in (quote, report):
        verified = CliRunner().invoke(
            app,
            [
                "attest",
                "verify",
                str(evidence),
                "--collateral",
                str(bundle),
                "--policy",
                "development",
                "--line",
            ],
        )
        assert verified.exit_code == 0, verified.output

    vendor.asked.clear()
    monkeypatch.setenv("AVALON_COLLATERAL_CACHE", str(tmp_path / "other"))
    imported = avalon("import", bundle)
    assert imported.exit_code == 0
    assert len(imported.stdout.splitlines()) == 7
    offline = avalon("fetch", quote, report, "--offline")
    assert (offline.exit_code, offline.stderr) == (0, "")
    assert vendor.asked == []


def test_show_lists_the_cache_and_warns_of_what_ends(avalon: Avalon, quote: Path) -> None:
    assert avalon("show").stdout.endswith("0 answers\n")
    avalon("fetch", quote)
    shown = avalon("show")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[0].endswith("4 answers")
    assert "fresh" in shown.stdout
    warned = avalon("show", "--within", "40")
    assert (warned.exit_code, len(warned.stderr.splitlines())) == (0, 4)
    assert "ends in 2" in warned.stderr
    assert avalon("show", "--within", "40", "--check").exit_code == 1
    assert avalon("show", "--check").exit_code == 0
    assert len(json.loads(avalon("show", "--json").stdout)["answers"]) == 4


def test_show_lists_files(avalon: Avalon, vendor: Any, clock: Any, quote: Path, tmp_path: Path) -> None:
    vendor.validity = clock.moment - timedelta(days=60)
    bundle = tmp_path / "bundle.json"
    exported = avalon("export", quote, "--out", bundle)
    assert exported.exit_code == 0
    assert exported.stderr.count("ENDED on") == 4
    shown = avalon("show", bundle)
    assert "QE identity QE" in shown.stdout
    assert shown.stderr.count("ENDED on") == 4
    assert avalon("show", bundle, "--check").exit_code == 1
    assert json.loads(avalon("show", bundle, "--json").stdout)["parts"][0]["what"].startswith("CRL of")


def test_what_is_missing_is_told_and_no_bundle_is_written(
    avalon: Avalon, vendor: Any, quote: Path, tmp_path: Path
) -> None:
    async def none(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    vendor.misbehave["/sgx/certification/v4/tcb"] = none
    bundle = tmp_path / "bundle.json"
    result = avalon("export", quote, "--out", bundle)
    assert result.exit_code == 1
    assert "HTTP 404" in result.stderr
    assert "is not written" in result.stderr
    assert not bundle.exists()


def test_stale_collateral_is_told(avalon: Avalon, vendor: Any, quote: Path) -> None:
    async def portal(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"sign in")

    avalon("fetch", quote)
    vendor.misbehave["/sgx/certification/v4/tcb"] = portal
    result = avalon("fetch", quote, "--refresh")
    assert result.exit_code == 3
    assert result.stderr.startswith("stale: SGX TCB info of FMSPC 53494d000000, fetched on ")
    assert "stale" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kds", "http://kds.example"], "expected https"),
        (["--pccs", "https://pccs.example"], "expected one of them"),
        (["--offline", "--refresh"], "expected one of them"),
        (["--ca-file", "nowhere.pem"], "--ca-file"),
        (["--timeout", "0"], "timeout"),
    ],
)
def test_usage(avalon: Avalon, quote: Path, arguments: list[str], words: str) -> None:
    result = avalon("fetch", quote, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_pccs_in_place_of_intel(
    avalon: Avalon, vendor: Any, quote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AVALON_PCS_URL")
    assert avalon("fetch", quote, "--pccs", vendor.url).exit_code == 0
    assert vendor.asked[-1].endswith("/rootcacrl")


def test_files_that_are_none(avalon: Avalon, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    for arguments in (("fetch", junk), ("import", junk), ("show", junk)):
        assert avalon(*arguments).exit_code == 2
    junk.write_bytes(b"junk")
    for arguments in (("fetch", junk), ("import", junk), ("show", junk)):
        result = avalon(*arguments)
        assert result.exit_code == 2
        assert str(junk) in result.stderr


def test_the_subscription_key_stays_in_its_file(
    avalon: Avalon, vendor: Any, samples: Any, tmp_path: Path
) -> None:
    quote = tmp_path / "quote.bin"
    quote.write_bytes(samples.sgx(certification=3).document)
    key = tmp_path / "key"
    key.write_text("key\n")
    key.chmod(0o644)
    assert "chmod 600" in avalon("fetch", quote, "--pcs-key-file", key).stderr
    key.chmod(0o600)
    result = avalon("fetch", quote, "--pcs-key-file", key)
    assert result.exit_code == 0, result.stderr
    assert vendor.headers[0]["Ocp-Apim-Subscription-Key"] == "key"
    cached = b"".join(path.read_bytes() for path in Path(os.environ["AVALON_COLLATERAL_CACHE"]).iterdir())
    assert b"Subscription" not in cached
    key.write_text("two words")
    assert "holds no key" in avalon("fetch", quote, "--refresh", "--pcs-key-file", key).stderr
    key.unlink()
    assert avalon("fetch", quote, "--refresh", "--pcs-key-file", key).exit_code == 2


def test_the_hook_for_verify_never_stands_in_the_way_of_a_verdict(
    vendor: Any, tmp_path: Path, samples: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = FetchOptions(
        pcs=vendor.url, root_crl=f"{vendor.url}/IntelSGXRootCA.der", kds=vendor.url, cache=tmp_path / "cache"
    )
    evidence = samples.sgx()
    found = anyio.run(lambda: collateral_for(evidence, options))
    assert len(found.dcap) == 1
    junk = Evidence(format="sgx-dcap", document=b"junk")
    assert anyio.run(lambda: collateral_for(junk, options)).dcap == ()
    assert "nothing fetched" in capsys.readouterr().err
    path = tmp_path / "quote"
    path.write_bytes(b"junk")
    assert anyio.run(lambda: collateral_for_file(path, EvidenceArguments(), options)) == NO_COLLATERAL
    path.write_bytes(evidence.document)
    assert anyio.run(lambda: collateral_for_file(path, EvidenceArguments(), options)) == found
