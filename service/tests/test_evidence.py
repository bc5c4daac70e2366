"""Evidence is issued anew in time, whatever fails meanwhile; and what the policy for requesters says."""

import asyncio

import pytest

from avalon_core.attestation import TrustPolicy, load_policy, require_production
from avalon_core.channel.quoting import Vendor
from avalon_core.errors import PolicyViolation
from avalon_core.simulator.roots import SIMULATOR
from avalon_service.development_policy import write_policy
from avalon_service.hosts import evidence
from avalon_service.hosts.evidence import NoCollateral, keep_fresh
from avalon_service.hosts.process import EnclaveCommand, EnclaveEnded, EvidenceNotRefreshed
from avalon_service.orders.errors import StoreUnavailable
from avalon_service.settings import Settings
from avalon_service.wiring import CannotStart, check

M = "ab" * 32


class FakeEnclave:
    """Answers with what the test has prepared, then ends."""

    pid = 1

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)

    async def refresh_evidence(self, timeout: float) -> bytes:
        if not self.answers:
            raise EnclaveEnded
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Wall:
    """A wall clock; sleeping moves it. ``slept``: how long each time."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            self.now += seconds
            await real(0)

        monkeypatch.setattr(evidence.asyncio, "sleep", sleep)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch) -> Wall:
    return Wall(monkeypatch)


async def run(enclave: FakeEnclave, wall: Wall, every: float, fails: int = 0) -> list[tuple[float, bytes]]:
    published: list[tuple[float, bytes]] = []

    async def publish(details: bytes) -> None:
        nonlocal fails
        if fails:
            fails -= 1
            raise StoreUnavailable("no disk")
        published.append((wall.now - 1_000, details))

    await keep_fresh(enclave, every, publish, clock=wall)
    return published


async def test_it_is_published_every_so_often_until_the_enclave_ends(wall):
    assert await run(FakeEnclave(b"1", b"2"), wall, 600) == [(600, b"1"), (1200, b"2")]
    assert max(wall.slept) <= 60, "a machine that slept must not oversleep"


@pytest.mark.parametrize("failure", [TimeoutError(), EvidenceNotRefreshed("no quoting process")])
async def test_what_failed_is_tried_again_after_a_tenth(wall, failure):
    published = await run(FakeEnclave(b"1", failure, failure, b"2", b"3"), wall, 600)
    assert published == [(600, b"1"), (1320, b"2"), (1920, b"3")]


async def test_a_store_that_is_not_there_is_tried_again(wall):
    assert await run(FakeEnclave(b"1", b"2"), wall, 600, fails=1) == [(660, b"2")]


async def test_without_a_source_records_are_as_the_enclave_made_them():
    assert await NoCollateral().add_to(b"{}") == b"{}"


def test_what_an_enclave_is_told_at_launch_is_on_its_command_line_and_sorted(tmp_path):
    command = EnclaveCommand(
        role="singleton", platform="simulated", platform_state=tmp_path / "state", name="w",
        quoting_socket=tmp_path / "q", simulated_kind="tdx", measured={"tenant": "acme", "accept_legacy": "true"},
    )  # fmt: skip
    arguments = command.arguments("fd:7")
    assert arguments[1:4] == ("-P", "-m", "avalon_enclave")
    assert arguments[-10:] == (
        "--quoting-socket", str(tmp_path / "q"), "--simulated-kind", "tdx",
        "--measured", "accept_legacy=true", "--measured", "tenant=acme", "--channel", "fd:7",
    )  # fmt: skip
    hardware = EnclaveCommand(
        role="singleton", platform="tpm", platform_state=tmp_path / "state", name="w",
        platform_config=tmp_path / "tpm.toml",
    )  # fmt: skip
    assert "--quoting-socket" not in hardware.arguments("fd:7")
    assert ("--platform-config", str(tmp_path / "tpm.toml")) == hardware.arguments("fd:7")[10:12]


def test_production_refuses_the_simulator_and_takes_hardware():
    with pytest.raises(CannotStart, match="refuses the simulated platform"):
        check(Settings(profile="production"))
    for platform in ("gramine", "tsm", "nitro", "tpm"):
        check(Settings(profile="production", platform=platform))


def test_where_evidence_ends_after_hours_it_is_issued_every_hour():
    assert Settings().evidence_period == 6 * 3600
    assert Settings(platform="nitro").evidence_period == 3600
    assert Settings(platform="nitro", evidence_refresh_seconds=60).evidence_period == 60


@pytest.mark.parametrize("published", [True, False], ids=["published seed", "a seed of one's own"])
def test_the_policy_for_requesters_admits_this_code_on_this_simulator_only(tmp_path, published):
    path = tmp_path / "policy.toml"
    vendor = Vendor(root_sha256=SIMULATOR.sha256 if published else "cd" * 32, published_seed=published)
    write_policy(path, vendor, "sgx", ["00" * 32])
    write_policy(path, vendor, "sgx", [M])
    policy = load_policy(path.read_bytes())
    assert policy.code.allowed == {M}
    assert policy.accepts_root(SIMULATOR) is published
    assert [root.sha256 for root in policy.own_roots] == ([] if published else ["cd" * 32])
    assert not any(
        policy.accepts_root(root) for root in TrustPolicy.production({M}).anchors() if not root.simulated
    )
    assert str(path) in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(PolicyViolation, match="accepts a simulator"):
        require_production(policy)
