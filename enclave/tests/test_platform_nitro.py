"""The Nitro platform against a stand-in for the kernel's driver and the device behind it."""

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import pytest

from avalon_core.attestation import proof_data
from avalon_core.attestation.collateral import NO_COLLATERAL
from avalon_core.attestation.nitro import NITRO
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.simulator.nitro import PCR_COUNT, ZEROS, NitroPki, NitroRequest, enclave_pcrs
from avalon_enclave.errors import StartRefused
from avalon_enclave.platforms import PLATFORMS, PlatformOptions, open_platform
from avalon_enclave.platforms.nitro import NSM_IOCTL_RAW, NitroPlatform, NsmFile

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
PCRS = enclave_pcrs(image="image", signer="signer")
REPORT_DATA = bytes(range(64))


class Nsm:
    """The device: answers requests as github.com/aws/aws-nitro-enclaves-nsm-api describes them."""

    def __init__(self, pcrs: Mapping[int, bytes] = PCRS) -> None:
        self.pki = NitroPki()
        self.pcrs = dict(pcrs)
        self.requests: list[Any] = []

    def answer(self, request: bytes) -> bytes:
        try:
            decoded = cbor2.loads(request)
        except cbor2.CBORDecodeError:
            return cbor2.dumps({"Error": "InvalidArgument"})
        self.requests.append(decoded)
        match decoded:
            case {"DescribePCR": {"index": int(index)}}:
                if index not in range(32):
                    return cbor2.dumps({"Error": "InvalidIndex"})
                value = self.pcrs.get(index, ZEROS)
                return cbor2.dumps({"DescribePCR": {"lock": index < PCR_COUNT, "data": value}})
            case {"Attestation": {"user_data": user_data, "nonce": nonce, "public_key": public_key}}:
                if any(
                    len(part or b"") > most
                    for part, most in ((user_data, 512), (nonce, 512), (public_key, 1024))
                ):
                    return cbor2.dumps({"Error": "InputTooLarge"})
                document = self.pki.issue(
                    NitroRequest(
                        timestamp_ms=int(NOW.timestamp()) * 1000,
                        pcrs=self.pcrs,
                        user_data=user_data,
                        nonce=nonce,
                        public_key=public_key,
                    )
                )
                return cbor2.dumps({"Attestation": {"document": document}})
        return cbor2.dumps({"Error": "InvalidOperation"})


class Driver:
    """The kernel's part, as in drivers/misc/nsm.c: memory in, memory out, lengths checked and written back."""

    def __init__(self, nsm: Nsm | None = None, *, fails: int = 0) -> None:
        """``fails``: an errno to fail with."""
        self.nsm = nsm or Nsm()
        self.room: int | None = None
        """As if the caller's buffer were smaller."""
        self._fails = fails

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> int:
        os.fstat(descriptor)
        if request != NSM_IOCTL_RAW or len(argument) != 32:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self._fails:
            raise OSError(self._fails, os.strerror(self._fails))
        address, length, answer_address, capacity = struct.unpack("=QQQQ", argument)
        if length > 0x1000:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        answer = self.nsm.answer(ctypes.string_at(address, length))[:0x3000]
        copied = min(capacity if self.room is None else self.room, len(answer))
        ctypes.memmove(answer_address, answer, copied)
        argument[:] = struct.pack("=QQQQ", address, length, answer_address, copied)
        return 0


class Saying:
    """A device that says one thing."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def exchange(self, request: bytes) -> bytes:
        answer = self._answers.pop(0)
        return answer if isinstance(answer, bytes) else cbor2.dumps(answer)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Some file in the device's place: it has to be there and to open."""
    path = tmp_path / "nsm"
    path.touch()
    return path


def platform(device: Path, driver: Driver) -> NitroPlatform:
    return NitroPlatform(device=NsmFile(device, ioctl=driver.ioctl))


def test_the_measurement_is_pcr0(device: Path) -> None:
    nitro = platform(device, Driver())
    assert nitro.measurement() == PCRS[0].hex()
    assert (nitro.name, nitro.simulated) == ("nitro", False)


def test_evidence_goes_from_the_device_to_claims(device: Path) -> None:
    driver = Driver()
    nitro = platform(device, driver)
    kind, value = nitro.issue_evidence(REPORT_DATA)
    assert kind == "TEE-NITRO"
    assert set(value) == {"document"}
    evidence, collateral = proof_data.decode(kind, value)
    assert collateral == NO_COLLATERAL
    anchors = TrustAnchors((driver.nsm.pki.anchor,))
    claims = NITRO.verify(evidence, anchors=anchors, collateral=collateral, as_of=NOW).claims
    assert claims is not None
    assert claims.report_data == REPORT_DATA
    assert claims.measurement == nitro.measurement()
    assert claims.signer == PCRS[8].hex()


def test_requests_are_those_of_the_published_interface(device: Path) -> None:
    driver = Driver()
    platform(device, driver).issue_evidence(REPORT_DATA)
    assert driver.nsm.requests == [
        {"DescribePCR": {"index": 0}},
        {"Attestation": {"user_data": REPORT_DATA, "nonce": None, "public_key": None}},
    ]


def test_debug_mode_is_told_by_the_evidence(device: Path) -> None:
    driver = Driver(Nsm(enclave_pcrs(image="image", debug=True)))
    nitro = platform(device, driver)
    assert nitro.measurement() == "00" * 48
    evidence, collateral = proof_data.decode(*nitro.issue_evidence(REPORT_DATA))
    anchors = TrustAnchors((driver.nsm.pki.anchor,))
    claims = NITRO.verify(evidence, anchors=anchors, collateral=collateral, as_of=NOW).claims
    assert claims is not None
    assert claims.debug


def test_sealing_is_refused_and_says_what_stands_in_its_place(device: Path) -> None:
    nitro = platform(device, Driver())
    for refuse in (nitro.seal, nitro.unseal):
        with pytest.raises(StartRefused, match=r"cannot seal.*fresh keys.*KMS"):
            refuse(b"secret")


def test_the_platform_is_chosen_by_name_and_needs_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nitro" in PLATFORMS
    missing = Path("/nonexistent/nsm")
    monkeypatch.setattr(NsmFile.__init__, "__defaults__", (missing,))
    with pytest.raises(StartRefused, match=r"/nonexistent/nsm cannot be opened .*nitro-cli run-enclave"):
        open_platform("nitro", PlatformOptions(role="singleton"))


def test_a_file_that_is_no_device_is_refused_by_the_kernel_itself(device: Path) -> None:
    with pytest.raises(StartRefused, match="not the device of the Nitro Security Module"):
        NitroPlatform(device=NsmFile(device))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ETIMEDOUT, "two minutes"),
        (errno.EINVAL, "does not know this request"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_of_the_driver_are_explained(device: Path, number: int, words: str) -> None:
    with pytest.raises(StartRefused, match=words):
        platform(device, Driver(fails=number))


@pytest.mark.parametrize("room", [0, 1, 30, 3000])
def test_an_answer_that_was_cut_is_refused(device: Path, room: int) -> None:
    driver = Driver()
    nitro = platform(device, driver)
    driver.room = room
    with pytest.raises(StartRefused, match="cut off"):
        nitro.issue_evidence(REPORT_DATA)


def test_requests_too_large_for_the_driver_are_never_sent(device: Path) -> None:
    driver = Driver()
    nitro = platform(device, driver)
    with pytest.raises(StartRefused, match="expected at most 4096"):
        nitro.issue_evidence(bytes(5000))
    with pytest.raises(StartRefused, match="InputTooLarge"):
        nitro.issue_evidence(bytes(513))
    assert len(driver.nsm.requests) == 2


def test_the_driver_refuses_what_is_too_large(device: Path) -> None:
    with pytest.raises(StartRefused, match="larger than 4096 bytes"):
        NsmFile(device, ioctl=Driver().ioctl).exchange(bytes(4097))


ODD_ANSWERS = {
    "an error": {"Error": "InternalError"},
    "an error that is no text": {"Error": 7},
    "another operation": {"DescribeNSM": {}},
    "two operations": {"DescribePCR": {"data": ZEROS}, "DescribeNSM": {}},
    "no operation": {},
    "a text": "DescribePCR",
    "values that are no map": {"DescribePCR": [ZEROS]},
    "a register of another size": {"DescribePCR": {"data": bytes(20)}},
    "a register as text": {"DescribePCR": {"data": "00"}},
    "no register": {"DescribePCR": {"lock": True}},
    "nothing": b"",
    "no CBOR": b"\xff\xff",
    "more than one value": b"\xa0\xa0",
    "more than fits": cbor2.dumps({"DescribePCR": {"data": bytes(0x3000)}}),
}


@pytest.mark.parametrize("answer", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_odd_answers_refuse_the_start(answer: Any) -> None:
    with pytest.raises(StartRefused):
        NitroPlatform(device=Saying(answer))


def _attestation(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"timestamp_ms": 1, "pcrs": PCRS, "user_data": REPORT_DATA} | changes
    return {"Attestation": {"document": NitroPki().issue(NitroRequest(**given))}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"Attestation": {}}, "not known here"),
        ({"Attestation": {"document": "text"}}, "not known here"),
        ({"Attestation": {"document": b"none"}}, "unreadable document"),
        (_attestation(user_data=bytes(64)), "other data"),
        (_attestation(user_data=None), "other data"),
        (_attestation(pcrs=enclave_pcrs(image="other")), "another PCR0"),
        ({"Error": "InvalidOperation"}, "InvalidOperation"),
    ],
)
def test_a_document_that_nobody_would_accept_fails_at_its_source(answer: Any, words: str) -> None:
    nitro = NitroPlatform(device=Saying({"DescribePCR": {"lock": True, "data": PCRS[0]}}, answer))
    with pytest.raises(StartRefused, match=words):
        nitro.issue_evidence(REPORT_DATA)
