import logging
from dataclasses import replace

import pytest

from avalon_core.attestation import Measurements, TrustPolicy, require_production
from avalon_core.errors import PolicyViolation
from avalon_core.simulator.roots import SIMULATOR
from avalon_sdk import AvalonClient, BadRequest, SimulatedWorkerWarning, UntrustedWorker, load_policy
from avalon_sdk.testing import MEASUREMENT, SimulatedTransport
from avalon_sdk.trust import is_loopback


class RemoteTransport(SimulatedTransport):
    @property
    def is_loopback(self) -> bool:
        return False


async def test_on_this_machine_the_default_accepts_the_simulator_and_warns_once(service):
    async with AvalonClient(service.transport()) as client:
        with pytest.warns(SimulatedWorkerWarning, match="SIMULATED: no hardware"):
            await client.find_worker()
        await client.find_worker()  # warnings are errors: there is no second one


async def test_elsewhere_the_default_admits_nobody_and_says_what_to_do(service):
    async with AvalonClient(RemoteTransport(service)) as client:
        with pytest.raises(UntrustedWorker, match=r"default admits nobody.*TrustPolicy.production") as caught:
            await client.run("echo-result", ["secret"])
    assert caught.value.report.checks
    assert [call.method for call in service.calls] == ["WorkerLookUp", "WorkerRetrieve"]


async def test_a_policy_that_was_given_is_used_without_a_warning_but_with_a_log(service, caplog):
    with caplog.at_level(logging.WARNING, "avalon_sdk"):
        async with AvalonClient(RemoteTransport(service), trust=service.trust) as client:
            assert (await client.run("echo-result", ["a"])).simulated
    assert "SIMULATED" in caplog.text


async def test_production_refuses_the_simulator_even_on_this_machine(service):
    async with AvalonClient(service.transport(), trust=TrustPolicy.production({MEASUREMENT})) as client:
        with pytest.raises(UntrustedWorker, match="accepted root failed"):
            await client.find_worker()


@pytest.mark.parametrize(
    "policy",
    [
        TrustPolicy.development({MEASUREMENT}),
        TrustPolicy(code=Measurements({MEASUREMENT}), roots={"simulator"}),
        TrustPolicy(code=Measurements({MEASUREMENT}), own_roots=[SIMULATOR]),
    ],
    ids=["the development policy", "a simulator by its name", "a simulator as a root of one's own"],
)
async def test_no_policy_that_admits_the_simulator_is_fit_for_production(service, policy):
    with pytest.raises(PolicyViolation, match="accepts a simulator"):
        require_production(policy)
    require_production(TrustPolicy.production({MEASUREMENT}))
    async with service.client(trust=replace(policy, roots=frozenset({"vendors"}), own_roots=())) as client:
        with pytest.raises(UntrustedWorker, match="accepted root failed"):
            await client.find_worker()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1947", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:1947", True),
        ("http://localhost:1947", True),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://127.0.0.1@example.com", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://2130706433", False),
    ],
)
def test_only_this_very_machine_is_loopback(url, expected):
    assert is_loopback(url) is expected


def test_policy_files(tmp_path):
    toml = tmp_path / "trust.toml"
    toml.write_text(f'measurements = ["{MEASUREMENT}"]\n')
    assert load_policy(toml) == TrustPolicy.production({MEASUREMENT})
    json = tmp_path / "trust.json"
    json.write_text(f'{{"measurements": ["{MEASUREMENT}"], "accept_simulator": true}}')
    assert load_policy(json) == TrustPolicy.development({MEASUREMENT})


def test_an_empty_policy_file_admits_nobody_even_with_the_simulator(tmp_path):
    path = tmp_path / "trust.toml"
    path.write_text("accept_simulator = true")
    policy = load_policy(path)
    assert policy.code.is_empty


@pytest.mark.parametrize(
    "text", ["measurement = []", 'measurements = ["xyz"]', "measurements = 3", "= =", "\udcff", "[" * 100_000]
)
def test_what_is_no_policy_is_refused(tmp_path, text):
    path = tmp_path / "trust.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadRequest, match="is not a trust policy"):
        load_policy(path)
    with pytest.raises(BadRequest, match="cannot be read"):
        load_policy(tmp_path / "missing.toml")
