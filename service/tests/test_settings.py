"""Settings: the order of their sources, and errors that name what is wrong."""

from pathlib import Path

import pytest

from avalon_service.settings import Settings, SettingsError, load_settings


def test_sources_override_each_other_in_order_and_are_told(tmp_path: Path) -> None:
    file = tmp_path / "avalon.toml"
    file.write_text('port = 1\nhost = "::1"\nlease_seconds = 3\n')
    loaded = load_settings(
        command_line={"port": 3, "store": None},
        environment={"AVALON_PORT": "2", "AVALON_LEASE_SECONDS": "4.5", "AVALON_URL": "http://elsewhere"},
        file=file,
    )
    assert (loaded.settings.port, loaded.settings.host, loaded.settings.lease_seconds) == (3, "::1", 4.5)
    assert loaded.origins["port"] == "command line"
    assert loaded.origins["lease_seconds"] == "environment AVALON_LEASE_SECONDS"
    assert loaded.origins["host"] == f"file {file}"
    assert loaded.origins["store"] == "default"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 70000", "port (file"),
        ('profile = "testing"', "profile (file"),
        ("port =", "is not TOML"),
        ('worker_name = ""', "worker_name (file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "avalon.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(command_line={}, environment={}, file=file)
    assert said in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the settings file"):
        load_settings(command_line={}, environment={}, file=tmp_path / "none.toml")


def test_legacy_orders_follow_the_profile_unless_set() -> None:
    assert Settings().accepts_legacy
    assert not Settings(profile="production").accepts_legacy
    assert Settings(profile="production", accept_legacy=True).accepts_legacy
    assert not Settings(accept_legacy=False).accepts_legacy
