"""How long an appraisal is good for, and what it costs: the clock is the test's."""

from datetime import UTC, datetime, timedelta

import pytest

from avalon_core.attestation import TrustPolicy, workers
from avalon_core.attestation.policy import SIMULATORS
from avalon_core.attestation.rules import Measurements
from avalon_sdk import UntrustedWorker
from avalon_sdk import workers as sdk_workers
from avalon_sdk.testing import MEASUREMENT, SimulatedService

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **units: float) -> None:
        self.now += timedelta(**units)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def service(time) -> SimulatedService:
    return SimulatedService(clock=time)


@pytest.fixture
def appraised(monkeypatch) -> list[datetime]:
    """The times as of which records are really appraised."""
    times = []

    def count(*given, as_of, **more):
        times.append(as_of)
        return workers.appraise_worker(*given, as_of=as_of, **more)

    monkeypatch.setattr(sdk_workers, "appraise_worker", count)
    return times


def policy(**more) -> TrustPolicy:
    return TrustPolicy(code=Measurements({MEASUREMENT}), roots={SIMULATORS}, **more)


async def test_a_record_that_passed_and_did_not_change_passes_for_an_hour(service, time, appraised):
    async with service.client() as client:
        for _ in range(3):
            await client.find_worker()
        time.pass_(minutes=59)
        await client.find_worker()
        assert appraised == [BEGIN]
        time.pass_(minutes=2)
        await client.find_worker()
        assert appraised == [BEGIN, time.now]


async def test_other_evidence_is_another_record(service, appraised):
    async with service.client() as client:
        await client.find_worker()
        service.refresh_evidence()
        await client.find_worker()
    assert len(appraised) == 2


async def test_a_change_of_the_policy_is_not_answered_from_before(service):
    async with service.client() as client:
        await client.find_worker()
        client._finder.policy = TrustPolicy.production({MEASUREMENT})
        with pytest.raises(UntrustedWorker, match="accepted root failed"):
            await client.find_worker()


async def test_what_did_not_pass_is_appraised_every_time(service, appraised):
    async with service.client(trust=TrustPolicy.production({MEASUREMENT})) as client:
        for _ in range(2):
            with pytest.raises(UntrustedWorker):
                await client.find_worker()
    assert len(appraised) == 2


async def test_a_worker_in_hand_is_appraised_again_when_its_time_has_come(service, time, appraised):
    async with service.client() as client:
        worker = await client.find_worker()
        await worker.run("echo-result", ["a"])
        assert len(appraised) == 1
        time.pass_(hours=2)
        await worker.run("echo-result", ["a"])
        await client.run("echo-result", ["a"])
        assert len(appraised) == 2
        time.pass_(days=40)  # collateral lasts thirty
        with pytest.raises(UntrustedWorker, match="collateral"):
            await worker.run("echo-result", ["a"])
        service.refresh_evidence()
        await worker.run("echo-result", ["a"])


async def test_evidence_that_grows_too_old_is_refused_until_it_is_issued_anew(service, time):
    async with service.client(trust=policy(maximum_age=1800)) as client:
        worker = await client.find_worker()
        assert worker.appraised.good_until == int(time.now.timestamp()) + 1800
        time.pass_(minutes=31)
        with pytest.raises(UntrustedWorker, match="evidence age"):
            await client.run("echo-result", ["a"])
        service.refresh_evidence()
        assert (await client.run("echo-result", ["a"])).texts() == ["RESULT: a"]


async def test_a_saved_order_is_judged_as_of_its_own_time_a_week_back_at_most(service, time, monkeypatch):
    monkeypatch.setattr("avalon_sdk.orders.time.time", lambda: time.now.timestamp())
    async with service.client(trust=policy(maximum_age=3600)) as client:
        saved = (await client.submit("echo-result", ["a"])).save()
        time.pass_(days=6)
        assert (await client.resume(saved).result()).texts() == ["RESULT: a"]
        time.pass_(days=2)
        with pytest.raises(UntrustedWorker, match="evidence age"):
            client.resume(saved)


async def test_the_mode_says_what_protects_a_worker(service):
    async with service.client() as client:
        worker = await client.find_worker()
        assert (worker.mode, worker.simulated) == ("SIMULATED sgx", True)
        assert (await worker.run("echo-result", ["a"])).mode == "SIMULATED sgx"
        [listed] = await client.workers()
        assert listed.mode == "SIMULATED sgx"
        service.forge_record = lambda record: record["details"]["workerTypeData"].update(proofData=None)
        [listed] = await client.workers()
        assert (listed.mode, listed.simulated) == ("SIMULATED", True)


async def test_a_record_that_hides_its_simulator_is_told_as_simulated_all_the_same(service):
    service.forge_record = lambda record: record["details"]["workerTypeData"].update(simulated=False)
    async with service.client() as client:
        [listed] = await client.workers()
        assert (listed.simulated, listed.is_trusted) == (True, False)
        with pytest.raises(UntrustedWorker, match="hides it"):
            await client.find_worker()
