"""The simulated Intel against an ordinary verifier, and against the layout of what Intel issues."""

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import dcap_qvl
import msgspec
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.attestation.claims import TcbStatus
from avalon_core.attestation.collateral import DcapCollateral
from avalon_core.simulator.intel import IntelSimulator
from avalon_core.simulator.intel_tcb import LADDER, Validity, validity_at
from avalon_core.simulator.quotes import SgxReport, TdReport
from avalon_core.simulator.sgx_extension import SGX_EXTENSION
from avalon_core.simulator.states import EXPECTATIONS, Outcome, State

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
CASES = [(kind, state) for kind in ("sgx", "tdx") for state in EXPECTATIONS[kind]]
REJECTIONS = {
    State.REVOKED: "Revoked",
    State.NO_TCB_LEVEL: "No matching TCB level",
    State.REVOKED_CERTIFICATE: "certificate chain",
    State.EXPIRED_CERTIFICATE: "certificate chain",
    State.EXPIRED_COLLATERAL: "Expired",
    State.FUTURE_COLLATERAL: "future",
    State.DEBUG: "Debug mode",
    State.WRONG_QE: "QE MRSIGNER mismatch",
    State.WRONG_SIGNATURE: "report signature is invalid",
    State.WRONG_QE_SIGNATURE: "Signature is invalid for qe_report",
    State.WRONG_KEY_BINDING: "QE report hash mismatch",
    State.WRONG_TCB_SIGNATURE: "Signature is invalid for tcb_info",
    State.UNKNOWN_ROOT: "Verification failed",
}
"""What dcap-qvl says of each state that it rejects."""

BYTE_FIELDS = [field.name for field in fields(SgxReport) if field.type is bytes and field.name != "cpusvn"]
"""The machine puts in the CPUSVN itself."""


@pytest.fixture(scope="module")
def simulator() -> IntelSimulator:
    return IntelSimulator()


def make_quote(simulator: IntelSimulator, kind: str, state: State = State.UP_TO_DATE) -> bytes:
    if kind == "sgx":
        return simulator.sgx_quote(SgxReport(mrenclave=b"E" * 32, report_data=REPORT_DATA), state=state)
    return simulator.tdx_quote(TdReport(mrtd=b"T" * 48, report_data=REPORT_DATA), state=state)


def verify(
    quote: bytes, collateral: DcapCollateral, *, root: bytes | None, now: datetime = NOW
) -> dict[str, Any]:
    seconds = int(now.timestamp())
    claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(
        quote,
        dcap_qvl.QuoteCollateralV3.from_json(msgspec.json.encode(collateral).decode()),
        seconds,
        dcap_qvl.QuotePolicy.claims_only(seconds),
    )
    decoded: dict[str, Any] = json.loads(claims.to_json())
    return decoded


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_an_ordinary_verifier_makes_of_each_state_what_the_simulator_announces(
    simulator: IntelSimulator, kind: Any, state: State
) -> None:
    quote = make_quote(simulator, kind, state)
    collateral = simulator.collateral(kind, validity_at(NOW), state=state)
    expected = EXPECTATIONS[kind][state]
    if state in REJECTIONS:
        assert expected.outcome is not Outcome.VERIFIED
        with pytest.raises(ValueError, match=REJECTIONS[state]):
            verify(quote, collateral, root=simulator.root_der)
        return
    claims = verify(quote, collateral, root=simulator.root_der)
    assert claims["tcb"]["status"] == (expected.tcb_status or TcbStatus.UP_TO_DATE)
    if state is State.WRONG_REPORT_DATA:
        assert expected.outcome is Outcome.NEVER_ACCEPTED
        assert report_of(claims)["report_data"] != REPORT_DATA.hex()
    else:
        assert expected.outcome is Outcome.VERIFIED
        assert report_of(claims)["report_data"] == REPORT_DATA.hex()
        advised = state not in (State.UP_TO_DATE, State.STALE)
        assert bool(claims["tcb"]["advisory_ids"]) == advised


def report_of(claims: dict[str, Any]) -> dict[str, Any]:
    (report,) = claims["report"].values()
    merged: dict[str, Any] = {**report.get("base", {}), **report}
    return merged


@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_the_vendors_own_root_does_not_accept_the_simulator(simulator: IntelSimulator, kind: Any) -> None:
    with pytest.raises(ValueError):
        verify(make_quote(simulator, kind), simulator.collateral(kind, validity_at(NOW)), root=None)


def test_collateral_of_the_ordinary_state_serves_every_state_of_the_platform(
    simulator: IntelSimulator,
) -> None:
    collateral = simulator.collateral("sgx", validity_at(NOW))
    for state in (State.OUT_OF_DATE, State.SW_HARDENING_NEEDED, State.OUTDATED_QE):
        claims = verify(make_quote(simulator, "sgx", state), collateral, root=simulator.root_der)
        assert claims["tcb"]["status"] == EXPECTATIONS["sgx"][state].tcb_status


@pytest.mark.parametrize("certification", [1, 2, 3, 5])
@pytest.mark.parametrize("ca", ["platform", "processor"])
def test_every_way_to_name_the_platform_is_verified(
    simulator: IntelSimulator, certification: Any, ca: Any
) -> None:
    quote = simulator.sgx_quote(SgxReport(), certification=certification, ca=ca)
    collateral = simulator.collateral("sgx", validity_at(NOW), ca=ca, pck_chain=certification != 5)
    assert verify(quote, collateral, root=simulator.root_der)["tcb"]["status"] == "UpToDate"


def test_quotes_have_the_sizes_of_real_ones(simulator: IntelSimulator) -> None:
    # Header, report and signature data of fixed sizes; certification data of types 1 to 3 is 36, 276 and 404 bytes.
    sizes = {kind: len(simulator.sgx_quote(SgxReport(), certification=kind)) for kind in (1, 2, 3)}
    assert sizes == {1: 1052 + 36, 2: 1052 + 276, 3: 1052 + 404}
    for quote, start in (
        (simulator.sgx_quote(SgxReport()), 1052),
        (simulator.tdx_quote(TdReport()), 1258),
        (simulator.tdx_quote(TdReport(), version=5), 1328),
    ):
        assert quote[start:].startswith(b"-----BEGIN CERTIFICATE-----")
        assert quote.endswith(b"-----END CERTIFICATE-----\n\0")


def test_every_field_of_an_enclave_report_can_be_set_and_is_where_the_parser_looks(
    simulator: IntelSimulator,
) -> None:
    report = SgxReport(
        mrenclave=b"a" * 32,
        mrsigner=b"b" * 32,
        isv_prod_id=0x0102,
        isv_svn=0x0304,
        report_data=REPORT_DATA,
        miscselect=5,
        isv_ext_prod_id=b"c" * 16,
        config_id=b"d" * 64,
        config_svn=0x0506,
        isv_family_id=b"e" * 16,
    )
    raw = simulator.sgx_quote(report)[48:432]
    assert raw[16:20] == (5).to_bytes(4, "little")
    assert raw[32:48] == b"c" * 16
    assert raw[64:96] == b"a" * 32
    assert raw[128:160] == b"b" * 32
    assert raw[192:256] == b"d" * 64
    assert raw[256:262] == bytes.fromhex("020104030605")
    assert raw[304:320] == b"e" * 16
    assert raw[320:384] == REPORT_DATA
    parsed = dcap_qvl.parse_quote(simulator.sgx_quote(report)).report
    assert bytes(parsed.mr_enclave) == b"a" * 32
    assert bytes(parsed.cpu_svn) == simulator.platform().cpusvn


def test_every_register_of_a_domain_is_where_the_parser_looks(simulator: IntelSimulator) -> None:
    values = {
        "mrtd": b"1", "mrconfigid": b"2", "mrowner": b"3", "mrownerconfig": b"4",
        "rtmr0": b"5", "rtmr1": b"6", "rtmr2": b"7", "rtmr3": b"8", "mrservicetd": b"9",
    }  # fmt: skip
    report = TdReport(**{name: value * 48 for name, value in values.items()}, report_data=REPORT_DATA)  # type: ignore[arg-type]
    parsed = dcap_qvl.parse_quote(simulator.tdx_quote(report, version=5)).report
    names = {
        "mrtd": "mr_td", "mrconfigid": "mr_config_id", "mrowner": "mr_owner", "mrownerconfig": "mr_owner_config",
        "rtmr0": "rt_mr0", "rtmr1": "rt_mr1", "rtmr2": "rt_mr2", "rtmr3": "rt_mr3", "mrservicetd": "mr_service_td",
    }  # fmt: skip
    for name, value in values.items():
        assert bytes(getattr(parsed, names[name])) == value * 48
    assert bytes(parsed.report_data) == REPORT_DATA


@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_equal_requests_give_equal_bytes(kind: Any) -> None:
    first, second = IntelSimulator(), IntelSimulator()
    assert make_quote(first, kind) == make_quote(second, kind)
    assert first.collateral(kind, validity_at(NOW)) == second.collateral(kind, validity_at(NOW))


def test_another_seed_makes_another_vendor(simulator: IntelSimulator) -> None:
    other = IntelSimulator(b"s" * 32)
    assert other.root_sha256 != simulator.root_sha256
    with pytest.raises(ValueError):
        verify(make_quote(other, "sgx"), other.collateral("sgx", validity_at(NOW)), root=simulator.root_der)


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        IntelSimulator(b"short")


@pytest.mark.parametrize("name", BYTE_FIELDS)
def test_a_field_of_another_length_is_refused(simulator: IntelSimulator, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        simulator.sgx_quote(SgxReport(**{name: b"x"}))  # type: ignore[arg-type]


def test_a_state_of_another_kind_is_refused(simulator: IntelSimulator) -> None:
    with pytest.raises(ValueError, match="no state"):
        simulator.sgx_quote(SgxReport(), state=State.TD_RELAUNCH_ADVISED)


def test_every_certificate_says_simulated(simulator: IntelSimulator) -> None:
    quote = make_quote(simulator, "sgx")
    collateral = simulator.collateral("sgx", validity_at(NOW), pck_chain=True)
    pem = collateral.tcb_info_issuer_chain + (collateral.pck_certificate_chain or "")
    certificates = x509.load_pem_x509_certificates(pem.encode())
    assert len(certificates) == 5
    for certificate in certificates:
        (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert str(name.value).startswith("SIMULATED")
    assert b"-----BEGIN CERTIFICATE-----" in quote


def test_the_platforms_certificate_tells_what_the_machine_is(simulator: IntelSimulator) -> None:
    pem = simulator.collateral("sgx", validity_at(NOW), pck_chain=True).pck_certificate_chain
    assert pem is not None
    extension = dcap_qvl.parse_pck_extension_from_pem(pem.encode())
    platform = simulator.platform()
    assert bytes(extension.ppid) == platform.ppid
    assert bytes(extension.cpu_svn) == platform.cpusvn
    assert extension.pce_svn == platform.pcesvn
    assert bytes(extension.fmspc) == platform.fmspc
    assert extension.sgx_type == 1
    assert bytes(extension.platform_instance_id or b"") == platform.platform_instance_id
    assert extension.get_value(f"{SGX_EXTENSION}.7.1") == b"\xff"


def test_the_ladder_descends_and_has_every_status_of_tcb_info() -> None:
    assert [level.microcode for level in LADDER] == sorted((x.microcode for x in LADDER), reverse=True)
    relaunch = {TcbStatus.TD_RELAUNCH_ADVISED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED}
    assert {level.status for level in LADDER} == set(TcbStatus) - relaunch


@given(
    st.datetimes(
        min_value=datetime(2021, 1, 1),  # noqa: DTZ001 the strategy adds the zone
        max_value=datetime(2049, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    )
)
def test_fresh_collateral_is_valid_now_for_a_slow_clock_and_for_weeks(now: datetime) -> None:
    validity = validity_at(now)
    assert validity.issued <= now - timedelta(days=1)
    assert validity.next_update > now + timedelta(days=27)


def test_a_validity_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot end"):
        Validity(issued=NOW, next_update=NOW)


@given(data=st.data())
def test_a_changed_byte_of_the_signed_part_is_rejected(data: st.DataObject) -> None:
    simulator = IntelSimulator()
    quote = bytearray(make_quote(simulator, "sgx"))
    place = data.draw(st.integers(0, 431))
    quote[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        verify(bytes(quote), simulator.collateral("sgx", validity_at(NOW)), root=simulator.root_der)
