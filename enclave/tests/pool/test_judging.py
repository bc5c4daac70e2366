"""How peers' evidence is judged: real evidence of simulated vendors, good and in every bad state, each with its own reason."""

import base64
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_evidence import DATA, KME, NOW, ROOTS, evidence, manifest

from avalon_core.channel.handshake import MAX_EVIDENCE_BYTES
from avalon_core.crypto.manifests import Manifest
from avalon_core.errors import HandshakeRefused
from avalon_core.simulator.states import EXPECTATIONS, Outcome, State
from avalon_core.simulator.vendors import SimulatedVendors
from avalon_enclave.pool.judging import CODE_REFUSED, Judge


def judge(
    given_: bytes, *, role="wpe", by: Manifest | None = None, data=DATA, simulated=True, **options
) -> None:
    Judge(simulated=simulated, clock=lambda: NOW, **options)(given_, data, role, by or manifest())


def reason(*args, **options) -> str:
    with pytest.raises(HandshakeRefused) as caught:
        judge(*args, **options)
    return caught.value.reason


def test_what_the_manifest_admits_is_admitted():
    judge(evidence())
    judge(evidence(KME), role="kme")


@pytest.mark.parametrize(
    ("given_", "options", "expected"),
    {
        "code that is not named": (lambda: evidence(b"\xcc" * 32), {}, CODE_REFUSED),
        "a KME's code as a WPE": (lambda: evidence(KME), {}, CODE_REFUSED),
        "a WPE's code as a KME": (evidence, {"role": "kme"}, CODE_REFUSED),
        "a manifest that names nobody": (evidence, {"by": manifest(wpe_measurements=())}, CODE_REFUSED),
        "a manifest that names no root": (evidence, {"by": manifest(roots=())}, "root not accepted"),
        "the simulator in production": (
            evidence,
            {"by": manifest(roots=("intel-sgx",))},
            "root not accepted",
        ),
        "a simulated peer of an enclave on hardware": (evidence, {"simulated": False}, "root not accepted"),
        "a debug enclave": (lambda: evidence(debug=True), {}, "debug evidence"),
        "evidence of another handshake": (evidence, {"data": DATA[::-1]}, "evidence of another handshake"),
        "another machine": (
            evidence,
            {"by": manifest(localisation="same-platform"), "own_machine": lambda: "ff"},
            "another machine",
        ),
        "a machine that knows not which it is": (
            evidence,
            {"by": manifest(localisation="same-platform")},
            "another machine",
        ),
        "a status that there is not": (
            evidence,
            {"by": manifest(tcb_statuses=("Fine",))},
            "malformed evidence",
        ),
        "too long": (lambda: bytes(MAX_EVIDENCE_BYTES + 1), {}, "malformed evidence"),
        "nothing": (lambda: b"", {}, "malformed evidence"),
    }.values(),
    ids=lambda case: "",
)
def test_each_refusal_has_its_reason(given_, options, expected):
    assert reason(given_(), **options) == expected


@pytest.mark.parametrize(
    ("kind", "state"),
    [(kind, state) for kind in ("sgx", "snp", "nitro") for state in EXPECTATIONS[kind]],
    ids=str,
)
def test_a_bad_platform_is_refused_and_only_a_good_one_is_not(kind, state):
    size = 32 if kind == "sgx" else 48
    by = manifest(wpe_measurements=("bb" * size,), roots=ROOTS)
    given_ = evidence(b"\xbb" * size, kind=kind, state=state)
    expectation = EXPECTATIONS[kind][state]
    judged = expectation.tcb_status is not None and expectation.tcb_status.value != "UpToDate"
    if expectation.outcome is Outcome.VERIFIED and not judged:
        judge(given_, by=by)
        return
    refused = reason(given_, by=by)
    expected = {
        State.DEBUG: ("debug evidence", "evidence refused: debug", "evidence refused: signature"),
        State.WRONG_REPORT_DATA: ("evidence of another handshake",),
        State.UNKNOWN_ROOT: ("root not accepted", "evidence refused: chain"),
    }.get(state)
    assert refused != "malformed evidence"
    assert expected is None or refused in expected


def test_a_status_that_the_manifest_names_is_accepted():
    given_ = evidence(state=State.SW_HARDENING_NEEDED)
    assert reason(given_).startswith("evidence refused: ")
    assert reason(given_, by=manifest(tcb_statuses=("UpToDate", "SWHardeningNeeded"))).endswith("advisories")


def test_collateral_that_has_ended_is_none():
    given_ = evidence()
    late = Judge(simulated=True, clock=lambda: NOW + timedelta(days=400))
    with pytest.raises(HandshakeRefused):
        late(given_, DATA, "wpe", manifest())


def test_evidence_of_a_simulator_with_another_seed_is_of_an_unknown_root():
    stranger = SimulatedVendors(bytes(32))
    assert reason(evidence(vendors=stranger)) == "root not accepted"


_GOOD = evidence()


@settings(max_examples=120, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_was_nothing_that_counts(where, bit):
    changed = bytearray(_GOOD)
    changed[int(where * len(changed))] ^= 1 << bit
    try:
        judge(bytes(changed))
    except HandshakeRefused:
        return
    # Then what was changed is not in the quote: its report still is the one that was signed.
    assert _document(bytes(changed))[:432] == _document(_GOOD)[:432]


def _document(given_: bytes) -> bytes:

    return base64.b64decode(msgspec.msgpack.decode(given_)[1]["document"])


@given(junk=st.binary(max_size=400))
def test_junk_is_refused_and_nothing_else_is_raised(junk):
    assert reason(junk) == "malformed evidence"


def test_a_defect_of_a_parser_costs_the_link_and_not_the_enclave(monkeypatch):
    monkeypatch.setattr(Judge, "appraise", lambda *_: 1 // 0)
    assert reason(_GOOD) == "malformed evidence"
