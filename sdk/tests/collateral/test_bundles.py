"""Bundles: written, carried, read, put into a cache where there is no network; and what ends when."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral, SnpCollateral
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.snp import Product, SigningKey
from avalon_core.errors import EvidenceError
from avalon_core.simulator.roots import SIMULATOR_ROOTS
from avalon_sdk.collateral import (
    BadCollateral,
    CollateralCache,
    Importer,
    Origin,
    endings,
    expiring,
    read_bundle,
    write_bundle,
)
from avalon_sdk.errors import BadRequest

NO_TIME = timedelta(0)


async def test_what_was_exported_verifies_where_there_is_no_network(
    vendor: Any, make_client: Any, settings: Any, clock: Any, samples: Any, tmp_path: Path
) -> None:
    evidence = [samples.sgx(), samples.tdx(ca="processor"), samples.snp(), samples.snp(Product.TURIN)]
    async with make_client() as client:
        fetched = await client.prefetch(*evidence)
    write_bundle(tmp_path / "bundle.json", fetched.collateral)
    vendor.asked.clear()

    collateral = read_bundle(tmp_path / "bundle.json")
    assert collateral == fetched.collateral
    offline = CollateralCache(tmp_path / "offline")
    imported = Importer(offline, settings, now=clock).add(collateral)
    assert (imported.older, imported.left_out) == ((), ())
    assert len(imported.kept) == 13
    async with make_client(cache=offline, offline=True) as client:
        found = await client.prefetch(*evidence)
    assert vendor.asked == []
    assert {piece.origin for piece in found.pieces} == {Origin.CACHE}
    for one in evidence:
        verification = format_named(one.format).verify(
            one, anchors=SIMULATOR_ROOTS, collateral=found.collateral, as_of=clock.moment
        )
        assert verification.claims is not None, verification.checks


async def test_an_import_never_takes_the_place_of_something_newer(
    vendor: Any, make_client: Any, settings: Any, clock: Any, cache: Any, samples: Any
) -> None:
    vendor.validity = clock.moment - timedelta(days=5)
    async with make_client(cache=None) as client:
        old = (await client.prefetch(samples.sgx())).collateral
    vendor.validity = None
    async with make_client() as client:
        new = (await client.prefetch(samples.sgx())).collateral
    imported = Importer(cache, settings, now=clock).add(old)
    assert (len(imported.kept), len(imported.older)) == (0, 4)
    async with make_client(offline=True) as client:
        assert (await client.prefetch(samples.sgx())).collateral == new


async def test_what_no_question_asks_for_is_left_out_and_told(
    vendor: Any, settings: Any, clock: Any, cache: Any
) -> None:
    amd = vendor.chips[Product.GENOA]
    collateral = Collateral(
        dcap=(vendor.dcap("sgx"),),
        snp=(SnpCollateral(certificates=(amd.vlek(), amd.asvk, amd.ark)),),
        certificates=(amd.ask,),
    )
    imported = Importer(cache, settings, now=clock).add(collateral)
    assert len(imported.kept) == 5
    assert [one.partition(" (")[0] for one in imported.left_out] == [
        "a PCK chain",
        "a VLEK's certificate",
        "1 certificates and CRLs of no vendor's service",
    ]


async def test_a_vlek_s_issuers_are_found_after_an_import(
    vendor: Any, make_client: Any, settings: Any, clock: Any, cache: Any, samples: Any
) -> None:
    evidence = samples.snp(carried=1, signing_key=SigningKey.VLEK)
    async with make_client(cache=None) as client:
        fetched = await client.prefetch(evidence)
    Importer(cache, settings, now=clock).add(fetched.collateral)
    async with make_client(offline=True) as client:
        assert (await client.prefetch(evidence)).collateral == fetched.collateral


def test_collateral_that_is_not_what_it_says_is_not_imported(
    vendor: Any, settings: Any, clock: Any, cache: Any
) -> None:
    dcap = vendor.dcap("sgx")
    for changes in (
        {"tcb_info_signature": "00"},
        {"tcb_info_issuer_chain": "none"},
        {"root_ca_crl": dcap.pck_crl},
    ):
        broken = Collateral(dcap=(msgspec.structs.replace(dcap, **changes),))
        with pytest.raises(BadCollateral):
            Importer(cache, settings, now=clock).add(broken)
    with pytest.raises(EvidenceError):
        Importer(cache, settings, now=clock).add(
            Collateral(dcap=(msgspec.structs.replace(dcap, pck_crl="no hex"),))
        )


def test_a_bundle_appears_whole_or_not_at_all(
    vendor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collateral = Collateral(dcap=(vendor.dcap("sgx"),))
    path = tmp_path / "bundle.json"
    write_bundle(path, collateral)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BadRequest, match="No space left"):
        write_bundle(path, NO_COLLATERAL)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadRequest, match="cannot be written"):
        write_bundle(tmp_path / "nowhere" / "bundle.json", collateral)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"nothing", "no collateral"),
        (b'{"version": 9}', "version"),
        (b" " * 5_000_000, "large"),
    ],
)
def test_a_file_that_is_no_bundle_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    with pytest.raises(BadRequest, match="cannot be read"):
        read_bundle(path)
    path.write_bytes(content)
    with pytest.raises(BadRequest, match=words):
        read_bundle(path)


def test_what_ends_when(vendor: Any, clock: Any) -> None:
    now = clock.moment
    collateral = Collateral(dcap=(vendor.dcap("tdx"),))
    found = endings(collateral)
    assert [ending.what for ending in found][:4] == [
        "CRL of 'SIMULATED SGX PCK Platform CA'",
        "CRL of 'SIMULATED SGX Root CA'",
        "QE identity TD_QE",
        "TDX TCB info of FMSPC 53494d000000",
    ]
    assert all(28 <= (ending.ends - now).days <= 29 for ending in found[:4])
    assert {ending.what for ending in found[4:]} == {
        f"certificate of 'SIMULATED SGX {name}'"
        for name in ("Root CA", "PCK Platform CA", "TCB Signing", "PCK Certificate")
    }
    assert expiring(collateral, within=timedelta(days=27), as_of=now) == ()
    assert expiring(collateral, within=timedelta(days=30), as_of=now) == found[:4]
    ended = expiring(collateral, within=NO_TIME, as_of=now + timedelta(days=31))
    assert ended == found[:4]
    assert ended[0].has_ended(now + timedelta(days=31))
    assert not ended[0].has_ended(now)


def test_what_ends_of_amd_and_of_others(vendor: Any, clock: Any) -> None:
    amd = vendor.chips[Product.MILAN]
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    crl = amd.crl(last_update=clock.moment, next_update=ends)
    collateral = Collateral(
        snp=(SnpCollateral(certificates=(amd.vcek(), amd.ask), crl=crl),),
        certificates=(amd.ark,),
        crls=(crl,),
    )
    (first, *others) = endings(collateral)
    assert (first.what, first.ends) == ("CRL of 'SIMULATED ARK-Milan'", ends)
    assert len(others) == 3
    assert endings(NO_COLLATERAL) == ()


def test_what_cannot_be_read_has_no_end(vendor: Any) -> None:
    dcap = vendor.dcap("sgx")
    for changes in ({"pck_crl": "zz"}, {"tcb_info": "{}"}, {"pck_crl_issuer_chain": "none"}):
        with pytest.raises(EvidenceError):
            endings(Collateral(dcap=(msgspec.structs.replace(dcap, **changes),)))


def test_loose_pem_files_are_read_too(vendor: Any, tmp_path: Path) -> None:
    amd = vendor.chips[Product.GENOA]
    pem = x509.load_der_x509_certificate(amd.ask).public_bytes(Encoding.PEM)
    (tmp_path / "ask.pem").write_bytes(pem)
    found = read_bundle(tmp_path / "ask.pem")
    assert amd.ask in (*found.certificates, *(der for snp in found.snp for der in snp.certificates))


def test_settings_say_where_an_import_is_found(vendor: Any, settings: Any, clock: Any, cache: Any) -> None:
    elsewhere = replace(settings, intel_url="https://pccs.example", intel_kind="pccs")
    Importer(cache, elsewhere, now=clock).add(Collateral(dcap=(vendor.dcap("sgx"),)))
    assert {one.url.partition("/sgx")[0] for one in cache.answers()} == {"https://pccs.example"}
