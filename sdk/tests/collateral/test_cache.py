"""The cache: what is fresh, what is stale, what is damaged, and many at once."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import format_named
from avalon_core.simulator.roots import SIMULATOR_ROOTS
from avalon_sdk.collateral import (
    CachedAnswer,
    CacheUnusable,
    CollateralCache,
    NoSuchCollateral,
    Origin,
    default_directory,
)

DAY = 24 * 3600


def answer(url: str = "https://vendor/one", **changes: Any) -> CachedAnswer:
    given: dict[str, Any] = {
        "url": url,
        "what": "one",
        "headers": {"issuer": "chain"},
        "body": b"\x00body\xff",
        "stored_at": 100,
        "fresh_until": 200,
        "ends": 300,
    }
    return CachedAnswer(**(given | changes))


async def test_a_fresh_answer_is_not_asked_for_again(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    for _ in range(2):
        async with make_client() as client:
            fetched = await client.prefetch(samples.sgx(), samples.snp())
    assert len(vendor.asked) == 7
    assert {piece.origin for piece in fetched.pieces} == {Origin.CACHE}
    assert fetched.stale == ()


async def test_statements_are_asked_for_again_each_day_and_certificates_are_not(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    async with make_client() as client:
        await client.prefetch(samples.sgx(), samples.snp())
    vendor.asked.clear()
    clock.at += DAY
    async with make_client() as client:
        fetched = await client.prefetch(samples.sgx(), samples.snp())
    assert [one.partition("?")[0].rpartition("/")[2] for one in vendor.asked] == [
        "tcb",
        "identity",
        "pckcrl",
        "IntelSGXRootCA.der",
        "crl",
    ]
    assert fetched.problems == ()


async def test_what_ends_sooner_is_asked_for_sooner(
    vendor: Any, make_client: Any, clock: Any, samples: Any, settings: Any
) -> None:
    patient = replace(settings, max_age=365 * DAY)
    async with make_client(settings=patient) as client:
        fetched = await client.prefetch(samples.sgx())
    ends = fetched.pieces[0].ends
    assert ends is not None
    vendor.asked.clear()
    for at, asked in ((ends - 1, 0), (ends, 4)):
        clock.at = at
        async with make_client(settings=patient) as client:
            await client.prefetch(samples.sgx())
        assert len(vendor.asked) == asked


async def test_what_had_ended_when_it_came_is_not_asked_for_with_every_breath(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    vendor.validity = clock.moment - timedelta(days=60)
    for seconds, asked in ((0, 4), (299, 4), (2, 8)):
        clock.at += seconds
        async with make_client() as client:
            fetched = await client.prefetch(samples.sgx())
        assert len(vendor.asked) == asked
    assert all(piece.has_ended(clock.at) for piece in fetched.pieces)


async def test_without_the_network_the_cache_serves_what_it_has_and_says_so(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    async def broken(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    evidence = samples.sgx()
    async with make_client() as client:
        await client.prefetch(evidence)
    clock.at += 40 * DAY
    paths = [f"/sgx/certification/v4/{name}" for name in ("tcb", "qe/identity", "pckcrl")]
    vendor.misbehave = dict.fromkeys((*paths, "/IntelSGXRootCA.der"), broken)
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    assert [piece.origin for piece in fetched.pieces] == [Origin.STALE] * 4
    assert "HTTP 500" in fetched.stale[0].reason
    assert fetched.stale[0].has_ended(clock.at)
    # Whether it may still count is for the verdict alone.
    assert verdict(evidence, fetched, clock, grace=timedelta(0)) is False
    assert verdict(evidence, fetched, clock, grace=timedelta(days=30)) is True


@pytest.mark.parametrize("body", [b"<html>pay for the network</html>", b""])
async def test_a_portal_in_between_does_not_wipe_out_what_the_cache_has(
    body: bytes, vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    async def portal(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    async with make_client() as client:
        await client.prefetch(samples.sgx())
    vendor.misbehave["/sgx/certification/v4/tcb"] = portal
    clock.at += DAY
    async with make_client() as client:
        fetched = await client.prefetch(samples.sgx())
    assert [piece.what for piece in fetched.stale] == ["SGX TCB info of FMSPC 53494d000000"]


async def test_offline_uses_the_cache_alone(vendor: Any, make_client: Any, clock: Any, samples: Any) -> None:
    async with make_client() as client:
        await client.prefetch(samples.sgx())
    vendor.asked.clear()
    async with make_client(offline=True) as client:
        assert (await client.prefetch(samples.sgx())).stale == ()
        clock.at += 2 * DAY
        fetched = await client.prefetch(samples.sgx())
    assert len(fetched.stale) == 4
    assert fetched.problems == ()
    assert vendor.asked == []


async def test_refresh_asks_although_the_cache_is_fresh(vendor: Any, make_client: Any, samples: Any) -> None:
    async with make_client() as client:
        await client.prefetch(samples.sgx())
    async with make_client(refresh=True) as client:
        fetched = await client.prefetch(samples.sgx())
    assert {piece.origin for piece in fetched.pieces} == {Origin.NETWORK}
    assert len(vendor.asked) == 8


async def test_a_vendor_that_has_none_any_more_is_believed_but_nothing_is_thrown_away(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    async def none(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async with make_client() as client:
        await client.prefetch(samples.sgx())
    vendor.misbehave["/sgx/certification/v4/tcb"] = none
    clock.at += DAY
    async with make_client() as client:
        fetched = await client.prefetch(samples.sgx())
    assert isinstance(fetched.problems[0], NoSuchCollateral)
    vendor.misbehave.clear()
    async with make_client() as client:
        assert (await client.prefetch(samples.sgx())).problems == ()


async def test_a_clock_that_was_set_back_makes_nothing_fresh(
    vendor: Any, make_client: Any, clock: Any, samples: Any
) -> None:
    async with make_client() as client:
        await client.prefetch(samples.sgx())
    clock.at -= 10
    async with make_client() as client:
        await client.prefetch(samples.sgx())
    assert len(vendor.asked) == 8


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "text", "another version"])
async def test_a_damaged_file_is_as_if_it_were_not_there(
    damage: str, vendor: Any, make_client: Any, cache: Any, clock: Any, samples: Any
) -> None:
    evidence = samples.sgx()
    async with make_client() as client:
        await client.prefetch(evidence)
    for path in cache.directory.iterdir():
        raw = path.read_bytes()
        changes = {
            "cut": raw[: len(raw) // 2],
            "flipped": raw[:-5] + bytes((raw[-5] ^ 1,)) + raw[-4:],
            "emptied": b"",
            "text": b"not an answer",
            "another version": raw.replace(b"collateral 1", b"collateral 9"),
        }
        path.write_bytes(changes[damage])
    assert cache.answers() == []
    async with make_client() as client:
        fetched = await client.prefetch(evidence)
    assert {piece.origin for piece in fetched.pieces} == {Origin.NETWORK}
    assert verdict(evidence, fetched, clock)
    assert len(cache.answers()) == 4


async def test_an_entry_that_is_whole_and_says_nonsense_is_asked_for_again(
    vendor: Any, make_client: Any, cache: Any, clock: Any, samples: Any
) -> None:
    async with make_client() as client:
        await client.prefetch(samples.sgx())
    for one in cache.answers():
        cache.put(
            CachedAnswer(**{**{name: getattr(one, name) for name in one.__struct_fields__}, "body": b"?"})
        )
    async with make_client() as client:
        fetched = await client.prefetch(samples.sgx())
    assert {piece.origin for piece in fetched.pieces} == {Origin.NETWORK}


async def test_a_cache_that_cannot_be_used_costs_the_cache_and_nothing_else(
    vendor: Any, make_client: Any, tmp_path: Path, samples: Any, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    async with make_client(cache=CollateralCache(blocked)) as client:
        fetched = await client.prefetch(samples.sgx())
    assert fetched.problems == ()
    assert len([one for one in caplog.records if "cache" in one.message]) == 1


def verdict(evidence: Evidence, fetched: Any, clock: Any, grace: timedelta = timedelta(0)) -> bool:
    verification = format_named(evidence.format).verify(
        evidence,
        anchors=SIMULATOR_ROOTS,
        collateral=fetched.collateral,
        as_of=clock.moment,
        grace=grace,
    )
    return verification.claims is not None


# -- The directory itself


def test_what_is_put_is_got(cache: CollateralCache) -> None:
    assert cache.get("https://vendor/one") is None
    assert cache.answers() == []
    one, two = answer(), answer("https://vendor/two", found=False, stored_at=101)
    cache.put(one)
    cache.put(two)
    assert (cache.get(one.url), cache.get(two.url), cache.get("https://vendor/three")) == (one, two, None)
    assert cache.answers() == [two, one]
    cache.put(answer(body=b"newer"))
    newer = cache.get(one.url)
    assert newer is not None
    assert newer.body == b"newer"


def test_an_entry_under_the_name_of_another_question_is_none(cache: CollateralCache) -> None:
    cache.put(answer())
    (path,) = cache.directory.iterdir()
    cache.put(answer("https://vendor/two"))
    (other,) = set(cache.directory.iterdir()) - {path}
    other.replace(path)
    assert cache.get("https://vendor/one") is None


def test_it_is_its_owners_alone(cache: CollateralCache) -> None:
    cache.put(answer())
    (path,) = cache.directory.iterdir()
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
def test_a_directory_that_others_can_write_to_is_refused(cache: CollateralCache, mode: int) -> None:
    cache.put(answer())
    cache.directory.chmod(mode)
    for use in (lambda: cache.get("https://vendor/one"), lambda: cache.put(answer()), cache.answers):
        with pytest.raises(CacheUnusable, match="chmod 700"):
            use()


def test_a_link_in_its_place_is_refused(cache: CollateralCache, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    cache.directory.symlink_to(tmp_path / "real")
    with pytest.raises(CacheUnusable):
        cache.put(answer())


def test_it_never_grows_beyond_its_size(tmp_path: Path) -> None:
    cache = CollateralCache(tmp_path / "cache", max_bytes=50_000)
    for number in range(20):
        cache.put(answer(f"https://vendor/{number}", body=os.urandom(5000), stored_at=number))
        path = max(cache.directory.iterdir(), key=lambda one: one.stat().st_ino)
        os.utime(path, (number, number))
    size = sum(path.stat().st_size for path in cache.directory.iterdir())
    assert size <= 50_000
    kept = {one.stored_at for one in cache.answers()}
    assert 19 in kept
    assert 0 not in kept


def test_an_answer_too_large_is_not_kept(cache: CollateralCache) -> None:
    with pytest.raises(CacheUnusable, match="expected at most"):
        cache.put(answer(body=bytes(5 * 1024 * 1024)))


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_are_not(cache: CollateralCache) -> None:
    cache.put(answer())
    dead, living = cache.directory / ".draft-dead", cache.directory / ".draft-living"
    dead.write_bytes(b"half")
    living.write_bytes(b"half")
    os.utime(dead, (0, 0))
    cache.put(answer("https://vendor/two"))
    assert (dead.exists(), living.exists()) == (False, True)
    assert len(cache.answers()) == 2


def test_a_write_that_fails_leaves_the_old_entry(
    cache: CollateralCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(answer())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CacheUnusable, match="No space left"):
        cache.put(answer(body=b"new"))
    assert cache.get("https://vendor/one") == answer()
    assert len(list(cache.directory.iterdir())) == 1


def test_many_processes_use_one_directory(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from avalon_sdk.collateral.cache import CachedAnswer, CollateralCache
        cache = CollateralCache(Path(sys.argv[1]), max_bytes=200_000)
        for number in range(120):
            url = f"https://vendor/{number % 7}"
            body = os.urandom(2000 + number) * 10
            cache.put(CachedAnswer(url=url, what="x", body=body, stored_at=number, fresh_until=1))
            found = cache.get(url)
            assert found is None or (found.url == url and len(found.body) >= 20_000), found
        """
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "cache")], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
    files = list((tmp_path / "cache").iterdir())
    assert all(path.suffix == ".answer" for path in files)
    assert sum(path.stat().st_size for path in files) <= 200_000


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "avalon" / "collateral"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "avalon" / "collateral"
