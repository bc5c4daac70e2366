"""A worker's record gets the collateral of its machine, or goes without, and is never lost for it."""

from datetime import UTC, datetime

import msgspec
import pytest

from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.proof_data import decode, encode
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.ids import HexStr
from avalon_core.protocol.workers import WorkerDetails, WorkerTypeData, decode_details
from avalon_core.simulator.vendors import EvidenceRequest, SimulatedVendors
from avalon_sdk.collateral import Fetched
from avalon_sdk.errors import BadAnswer
from avalon_service.hosts.collateral import VendorCollateral

ISSUED = SimulatedVendors().issue(
    EvidenceRequest(kind="sgx", measurement=bytes(32), report_data=b""), datetime.now(UTC)
)


class Client:
    """The SDK's client, which answers what a test says."""

    def __init__(self, fetched: Fetched | Exception) -> None:
        self._fetched = fetched
        self.asked: list[Evidence] = []

    async def prefetch(self, *evidence: Evidence, timeout: float) -> Fetched:
        self.asked += evidence
        if isinstance(self._fetched, Exception):
            raise self._fetched
        return self._fetched


def details(**members: object) -> bytes:
    kind, proof = encode(ISSUED.evidence)
    data = {
        "verification_key": SigningKey.generate().verification_key.pem,
        "encryption_key": "a key",
        "encryption_key_signature": HexStr("00"),
        "proof_data_type": kind,
        "proof_data": proof,
        **members,
    }
    return msgspec.json.encode(WorkerDetails(worker_type_data=WorkerTypeData(**data)))  # type: ignore[arg-type]


async def test_what_was_fetched_stands_in_the_record() -> None:
    client = Client(Fetched(collateral=ISSUED.collateral))
    before = details()
    after = decode_details(await VendorCollateral(client).add_to(before)).worker_type_data  # type: ignore[arg-type]
    evidence, collateral = decode(after.proof_data_type, after.proof_data)
    assert client.asked == [ISSUED.evidence]
    assert evidence == ISSUED.evidence
    assert collateral == ISSUED.collateral
    assert after.verification_key == decode_details(before).worker_type_data.verification_key


@pytest.mark.parametrize(
    "fetched",
    [Fetched(problems=(BadAnswer("the vendor does not answer"),)), BadAnswer("no network")],
    ids=["nothing came", "the client fails"],
)
async def test_a_record_without_collateral_is_better_than_none(
    fetched: Fetched | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    before = details()
    after = await VendorCollateral(Client(fetched)).add_to(before)  # type: ignore[arg-type]
    assert decode_details(after) == decode_details(before)
    assert "collateral" in caplog.text


async def test_evidence_that_nobody_knows_is_published_as_it_is() -> None:
    before = details(proof_data_type="TEE-NEW")
    assert await VendorCollateral(Client(Fetched())).add_to(before) == before  # type: ignore[arg-type]
