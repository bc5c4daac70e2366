"""Our own verifiers on everything that the simulators make, in every state."""

from datetime import UTC, datetime

import pytest

from avalon_core.attestation.checks import Verdict, overall
from avalon_core.attestation.claims import TcbStatus
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.known_roots import VENDOR_ROOTS
from avalon_core.simulator.roots import SIMULATOR_ROOTS
from avalon_core.simulator.states import EXPECTATIONS, Outcome, State
from avalon_core.simulator.vendors import MEASUREMENT_BYTES, EvidenceRequest, Issued, SimulatedVendors

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
CASES = [(kind, state) for kind, states in EXPECTATIONS.items() for state in states]


def issue(kind: str, state: State = State.UP_TO_DATE) -> Issued:
    measurement = b"m" * MEASUREMENT_BYTES[kind]
    return SimulatedVendors().issue(
        EvidenceRequest(kind=kind, measurement=measurement, report_data=REPORT_DATA, state=state), NOW
    )


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_each_state_comes_to_what_is_announced(kind: str, state: State) -> None:
    issued = issue(kind, state)
    expected = EXPECTATIONS[kind][state]
    verified = format_named(issued.evidence.format).verify(
        issued.evidence, anchors=SIMULATOR_ROOTS, collateral=issued.collateral, as_of=NOW
    )
    claims = verified.claims
    match expected.outcome:
        case Outcome.VERIFIED:
            assert claims is not None, verified.checks
            assert claims.simulated
            assert claims.root.startswith("simulator")
            assert claims.measurement == (b"m" * MEASUREMENT_BYTES[kind]).hex()
            assert claims.report_data == REPORT_DATA
            assert not claims.debug
            assert claims.tcb_status == expected.tcb_status
        case Outcome.NEVER_ACCEPTED:
            assert (
                claims is None
                or claims.debug
                or claims.report_data != REPORT_DATA
                or claims.tcb_status is TcbStatus.REVOKED
            )
        case Outcome.REJECTED:
            assert claims is None
            assert overall(verified.checks) is not Verdict.PASSED


@pytest.mark.parametrize("kind", EXPECTATIONS)
def test_where_only_vendors_roots_are_known_no_simulator_is_accepted(kind: str) -> None:
    issued = issue(kind)
    verified = format_named(issued.evidence.format).verify(
        issued.evidence, anchors=VENDOR_ROOTS, collateral=issued.collateral, as_of=NOW
    )
    assert verified.claims is None
