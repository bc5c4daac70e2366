"""The simulated platform with a real quoting process, and the ordinary verifier on what it issues."""

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from avalon_core.attestation import proof_data
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.channel.quoting import Refused, Vendor, encode
from avalon_core.simulator.roots import SIMULATOR, SIMULATOR_ROOTS
from avalon_enclave.errors import SealingFailed, StartRefused
from avalon_enclave.measurement import measure
from avalon_enclave.platforms import quoting_client
from avalon_enclave.platforms.simulated import SimulatedTee

REPORT_DATA = bytes(range(64))


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A short one: paths of Unix sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_its_evidence_is_verified_by_the_ordinary_verifier_under_the_simulators_root_only(
    quoting_socket, kind
):
    platform = SimulatedTee(role="singleton", quoting_socket=quoting_socket, kind=kind)
    proof_data_type, value = platform.issue_evidence(REPORT_DATA)
    evidence, collateral = proof_data.decode(proof_data_type, value)
    known = format_named(evidence.format)
    now = datetime.now(UTC)
    verified = known.verify(evidence, anchors=SIMULATOR_ROOTS, collateral=collateral, as_of=now)
    claims = verified.claims
    assert claims is not None, verified.checks
    assert claims.simulated
    assert claims.root == SIMULATOR.name
    assert claims.measurement == platform.measurement()
    assert claims.report_data == REPORT_DATA
    assert not claims.debug
    others = known.verify(evidence, anchors=TrustAnchors(()), collateral=collateral, as_of=now)
    assert others.claims is None


def test_its_measurement_is_that_of_the_code_in_the_width_of_the_tee():
    sgx = SimulatedTee(role="singleton", quoting_socket=None)
    tdx = SimulatedTee(role="singleton", quoting_socket=None, kind="tdx")
    told = SimulatedTee(role="singleton", quoting_socket=None, configuration={"tenant": "acme"})
    assert sgx.measurement() == measure("singleton")
    assert tdx.measurement() == measure("singleton", algorithm="sha384")
    assert told.measurement() == measure("singleton", {"tenant": "acme"}) != sgx.measurement()


def test_it_says_that_it_protects_nothing():
    platform = SimulatedTee(role="singleton", quoting_socket=None)
    assert platform.simulated
    assert platform.name == "simulated"


def test_without_a_quoting_process_there_is_no_evidence_and_it_says_what_to_do(directory, monkeypatch):
    with pytest.raises(StartRefused, match="--quoting-socket PATH"):
        SimulatedTee(role="singleton", quoting_socket=None).issue_evidence(REPORT_DATA)
    monkeypatch.setattr(quoting_client.ask_for_quote, "__kwdefaults__", {"seconds": 0.2})
    began = time.monotonic()
    with pytest.raises(StartRefused, match=r"python -m avalon_service\.quoting"):
        SimulatedTee(role="singleton", quoting_socket=directory / "nobody").issue_evidence(REPORT_DATA)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("why", "answer"),
    [
        ("hung up", b""),
        ("the cap is", b"\xff\xff\xff\xff"),
        ("not an answer", (3).to_bytes(4, "big") + b"xyz"),
        ("refuses to vouch", encode(Refused(message="no"))),
        ("got Vendor", encode(Vendor(root_sha256="", published_seed=True))),
    ],
)
def test_whatever_answers_there_the_platform_does_not_start_on_it(directory, why, answer):
    path = directory / "impostor"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(StartRefused, match=why):
                SimulatedTee(role="singleton", quoting_socket=path).issue_evidence(REPORT_DATA)
        finally:
            thread.join(10)
            path.unlink()


def test_one_that_never_answers_is_given_up(directory, monkeypatch):
    monkeypatch.setattr(quoting_client.ask_for_quote, "__kwdefaults__", {"seconds": 0.3})
    path = directory / "silent"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(StartRefused, match=r"no answer within 0\.3 s"):
            SimulatedTee(role="singleton", quoting_socket=path).issue_evidence(REPORT_DATA)


def test_what_it_sealed_opens_for_the_same_role_on_the_same_machine_only(tmp_path):
    def platform(role: str = "singleton", state: str = "state") -> SimulatedTee:
        return SimulatedTee(role=role, quoting_socket=None, state_path=tmp_path / state)

    sealed = platform().seal(b"secret")
    assert platform().unseal(sealed) == b"secret"
    for other in (platform(role="kme"), platform(state="another")):
        with pytest.raises(SealingFailed):
            other.unseal(sealed)
    for changed in (sealed[:-1], b"x" + sealed, sealed[:-1] + bytes((sealed[-1] ^ 1,))):
        with pytest.raises(SealingFailed):
            platform().unseal(changed)
    with pytest.raises(StartRefused, match="--platform-state"):
        SimulatedTee(role="singleton", quoting_socket=None).seal(b"secret")
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(StartRefused, match="expected 32"):
        platform(state="short").seal(b"secret")


def test_what_the_first_cut_of_this_platform_sealed_still_opens(tmp_path):
    (tmp_path / "state").write_bytes(bytes(range(32)))
    platform = SimulatedTee(role="singleton", quoting_socket=None, state_path=tmp_path / "state")
    sealed = bytes.fromhex(
        "6176616c6f6e2073696d756c61746564207365616c2031007be15971ca3080a9c5b14c8f5c7114d8d141e5fcbe6840cf72c18d1f"
        "e7a3a2cd8108"
    )
    assert platform.unseal(sealed) == b"secret"
