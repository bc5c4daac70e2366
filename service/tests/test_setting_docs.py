"""Every setting is documented, and nothing secret is shown."""

import pytest

from avalon_service.setting_docs import HIDDEN, describe, shown
from avalon_service.settings import Settings
from avalon_service.wiring import CannotStart, check


def test_every_setting_has_a_text_and_says_what_it_expects() -> None:
    docs = describe()
    assert [doc.name for doc in docs] == list(Settings.__struct_fields__)
    assert not [doc.name for doc in docs if not doc.text or not doc.expected]


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("database_password", "x", HIDDEN),
        ("api_token", "x", HIDDEN),
        ("api_token", "", ""),
        ("token_file", "somewhere", "somewhere"),
        ("database", "postgresql://me:x@host/db", f"postgresql://{HIDDEN}@host/db"),
        ("host", "127.0.0.1", "127.0.0.1"),
        ("port", 1947, 1947),
    ],
)
def test_secrets_are_hidden(name: str, value: object, seen: object) -> None:
    assert shown(name, value) == seen


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "simulated platform"),
        ({"host": "0.0.0.0"}, "behind a TLS proxy"),
        ({"store": "memory"}, "set store to 'sqlite'"),
        ({"self_registration": True}, "Leave it unset"),
    ],
    ids=str,
)
def test_production_says_everything_that_must_change(changes: dict[str, object], said: str) -> None:
    with pytest.raises(CannotStart) as caught:
        check(Settings(profile="production", **changes))  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "simulated platform" in str(caught.value)
    check(Settings(profile="development", **changes))  # type: ignore[arg-type]
