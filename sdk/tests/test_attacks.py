"""What a dishonest service may try. Each is refused, by the error that names it, and nothing of it is returned."""

import base64

import pytest
from msgspec.structs import replace

from avalon_core.attestation import TrustPolicy
from avalon_core.crypto.signing import SigningKey
from avalon_sdk import BadAnswer, ResultRefused, UntrustedWorker, Verdict
from avalon_sdk.testing import SimulatedService


def data_of(record):
    return record["details"]["workerTypeData"]


def changed(document: str, place: int) -> str:
    """A quote whose MRENCLAVE (at 112) or report data (at 368) is another's."""
    raw = bytearray(base64.b64decode(document))
    raw[place] ^= 1
    return base64.b64encode(raw).decode()


def flipped(text: str) -> str:
    return ("B" if text[0] != "B" else "C") + text[1:]


@pytest.mark.parametrize("suite", ["~avalon-hpke-1", "avalon", "eea-1.1"])
@pytest.mark.parametrize(
    ("what", "forge"),
    [
        ("an output is changed", lambda r: replace(r, out_data=(replace(r.out_data[0], data=flipped(r.out_data[0].data)),))),
        ("an output is left out", lambda r: replace(r, out_data=())),
        ("an output is moved", lambda r: replace(r, out_data=(replace(r.out_data[0], index=7), r.out_data[0]))),
        ("an output is there twice", lambda r: replace(r, out_data=(r.out_data[0], r.out_data[0]))),
        ("the nonce is changed", lambda r: replace(r, worker_nonce=flipped(r.worker_nonce))),
        ("the signature is changed", lambda r: replace(r, worker_signature=flipped(r.worker_signature))),
        ("the signature is stripped", lambda r: replace(r, worker_signature="")),
        ("another order is named", lambda r: replace(r, work_order_id="00" * 32)),
        ("another worker is named", lambda r: replace(r, worker_id="00" * 32)),
        ("another requester is named", lambda r: replace(r, requester_id="00" * 32)),
        ("another workload is named", lambda r: replace(r, workload_id="00" * 32)),
    ],
)  # fmt: skip
async def test_a_changed_result_is_refused_when(service, suite, what, forge):
    service.forge_result = forge
    async with service.client() as client:
        with pytest.raises(ResultRefused, match="Nothing of it was returned"):
            await client.run("echo-result", ["secret"], suite=suite)


async def test_a_signature_of_another_key_is_refused(service):
    service.result_signer = SigningKey.generate()
    async with service.client() as client:
        with pytest.raises(ResultRefused, match="signature"):
            await client.run("echo-result", ["secret"])


async def test_the_result_of_another_order_is_refused(service):
    seen = []
    async with service.client() as client:
        service.forge_result = lambda result: seen.append(result) or seen[0]
        await client.run("echo-result", ["first"])
        with pytest.raises(ResultRefused, match="another order"):
            await client.run("echo-result", ["second"])


async def test_a_forged_key_of_a_pool_is_refused(service):
    pem = SigningKey.generate().verification_key.pem
    service.forge_result = lambda r: replace(
        r, ext_verification_key=pem, ext_verification_key_signature="AAAA"
    )
    async with service.client() as client:
        with pytest.raises(ResultRefused, match="signature"):
            await client.run("echo-result", ["secret"])


OTHER = data_of(SimulatedService().record())


@pytest.mark.parametrize(
    ("check", "forge"),
    [
        ("report data", lambda d: d.update(hpkeEncryptionKey=OTHER["hpkeEncryptionKey"], hpkeEncryptionKeySignature=OTHER["hpkeEncryptionKeySignature"])),
        ("report data", lambda d: d.update({k: OTHER[k] for k in OTHER if k not in ("proofData", "keyBinding")})),
        ("report data", lambda d: d["keyBinding"].update(nonce="11" * 32)),
        ("report data", lambda d: d["keyBinding"].update(role="kme")),
        ("report data", lambda d: d.update(keyBinding=None)),
        ("report data", lambda d: d.update(proofData=OTHER["proofData"])),
        ("evidence", lambda d: d.update(proofData=None)),
        ("evidence", lambda d: d.update(proofDataType="")),
        ("format", lambda d: d.update(proofDataType="TEE-TDX")),
        ("format", lambda d: d["proofData"].update(document="")),
        ("quote signature", lambda d: d["proofData"].update(document=changed(d["proofData"]["document"], 112))),
        ("quote signature", lambda d: d["proofData"].update(document=changed(d["proofData"]["document"], 368))),
        ("collateral", lambda d: d["proofData"].pop("collateral")),
        ("simulation told", lambda d: d.update(simulated=False)),
        ("encryption keys", lambda d: d.update(encryptionKeySignature="00")),
        ("encryption keys", lambda d: d.update(hpkeEncryptionKeySignature=None)),
    ],
)  # fmt: skip
async def test_a_forged_record_is_refused_before_anything_is_sealed(service, check, forge):
    service.forge_record = lambda record: forge(data_of(record))
    async with service.client() as client:
        with pytest.raises(UntrustedWorker, match="nothing was sent") as caught:
            await client.run("echo-result", ["secret"])
        assert [listed.is_trusted for listed in await client.workers()] == [False]
    failed = [found.name for found in caught.value.report.checks if found.verdict is not Verdict.PASSED]
    assert check in failed
    assert not [call for call in service.calls if call.method.startswith("WorkOrder")]


async def test_an_enclave_of_another_measurement_is_refused(service):
    trust = TrustPolicy.development({"00" * 32})
    async with service.client(trust=trust) as client:
        with pytest.raises(UntrustedWorker, match="code identity failed"):
            await client.run("echo-result", ["secret"])


async def test_a_record_that_names_another_worker_is_refused(service):
    service.forge_record = lambda record: record.update(workerId="00" * 32)
    async with service.client() as client:
        with pytest.raises(BadAnswer, match="another worker"):
            await client.find_worker("simulated-worker")


async def test_a_record_changed_after_it_passed_is_appraised_anew(service):
    async with service.client() as client:
        await client.find_worker()
        service.forge_record = lambda record: data_of(record).update(proofData=OTHER["proofData"])
        with pytest.raises(UntrustedWorker):
            await client.find_worker()


async def test_a_key_swapped_under_the_pretext_of_rotation_is_refused(service):
    async with service.client() as client:
        await client.find_worker()
        await client.run("echo-result", ["a"])
        service.rotate_keys()
        service.forge_record = lambda record: data_of(record).update(
            hpkeEncryptionKey=OTHER["hpkeEncryptionKey"]
        )
        with pytest.raises(UntrustedWorker):
            await client.run("echo-result", ["secret"])
