"""The operator's token and the requesters' keys: made safely, read strictly."""

import asyncio
from pathlib import Path

import pytest

from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import KeyFormatError
from avalon_service.registry.operator import TokenUnusable, WrongToken, open_token
from avalon_service.registry.requesters import RequesterKeys, RequestersUnusable, TooManyRequesters


def test_a_token_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "operator-token"
    operator = open_token(path)
    token = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(token) >= 40
    again = open_token(path)
    assert path.read_text().strip() == token
    for each in (operator, again):
        assert each.sent([(b"authorization", b"Bearer " + token.encode())])
        assert each.sent([(b"authorization", b"bearer  " + token.encode())])
        assert not each.sent([(b"content-type", b"application/json")])
    assert [entry.name for entry in tmp_path.iterdir()] == ["operator-token"]


@pytest.mark.parametrize(
    "value",
    [b"", b"Bearer", b"Bearer ", b"Bearer x", b"Basic TOKEN", b"TOKEN", b"Bearer TOKENx", b"Bearer \xff"],
)
def test_another_token_is_an_error_not_no_token(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "operator-token"
    operator = open_token(path)
    value = value.replace(b"TOKEN", path.read_bytes().strip())
    with pytest.raises(WrongToken):
        operator.sent([(b"authorization", value)])


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("x" * 40, 0o644, "chmod 600"),
        ("short", 0o600, "at least 32"),
        ("", 0o600, "at least 32"),
        ("\u00e4" * 40, 0o600, "one line of ASCII"),
    ],
)
def test_a_token_file_that_is_unsafe_is_refused(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = tmp_path / "operator-token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(TokenUnusable, match=said):
        open_token(path)


async def test_requesters_keys_outlive_a_restart_under_every_spelling(tmp_path: Path) -> None:
    path = tmp_path / "requesters.json"
    keys = RequesterKeys.open(path)
    pem = SigningKey.generate().verification_key.pem
    await keys.set("0xAB", pem)
    assert path.stat().st_mode & 0o777 == 0o600
    for read in (keys, RequesterKeys.open(path)):
        assert [read.key_of(name) for name in ("ab", "AB", "0xab", "0xAB", "abab")] == [pem] * 4 + [None]
    await keys.set("Ab", None)
    assert RequesterKeys.open(path).key_of("ab") is None


async def test_many_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "requesters.json"
    keys = RequesterKeys.open(path)
    pem = SigningKey.generate().verification_key.pem
    await asyncio.gather(*(keys.set(f"{number:02x}", pem) for number in range(20)))
    read = RequesterKeys.open(path)
    assert all(read.key_of(f"{number:02x}") == pem for number in range(20))


async def test_what_is_no_key_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    keys = RequesterKeys.open(tmp_path / "requesters.json")
    with pytest.raises(KeyFormatError):
        await keys.set("ab", "no key")
    assert keys.key_of("ab") is None
    assert not (tmp_path / "requesters.json").exists()


async def test_there_is_an_end_to_requesters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avalon_service.registry.requesters.MAX_REQUESTERS", 1)
    keys, pem = RequesterKeys(), SigningKey.generate().verification_key.pem
    await keys.set("01", pem)
    await keys.set("01", pem)
    with pytest.raises(TooManyRequesters):
        await keys.set("02", pem)


@pytest.mark.parametrize("text", ["", "{", '{"requesters": {"ab": "no key"}}', '{"other": {}}'])
def test_a_damaged_file_does_not_pass_for_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "requesters.json"
    path.write_text(text)
    with pytest.raises(RequestersUnusable, match="bring back a copy"):
        RequesterKeys.open(path)
