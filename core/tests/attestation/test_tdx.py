"""TDX quotes: real ones reach the outcome that is known of them, spoilt ones fail at the check that says why."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from avalon_core.attestation.claims import TcbStatus, Tee
from avalon_core.attestation.dcap.quotes import BodyType, parse_quote
from avalon_core.attestation.tdx import TDX
from avalon_core.attestation.tdx.report import parse_td_report
from avalon_core.errors import EvidenceError

PHALA, GOOGLE, ASSEMBLED = "tdx/phala-network-dcap-qvl", "tdx/google-go-tdx-guest", "tdx/assembled"
V5, V5_COLLATERAL, V5_TIME = (
    f"{GOOGLE}/quote_v5_sample.dat",
    f"{ASSEMBLED}/collateral_tdx_90C06F000000_2026-01.json",
    1769529299,
)
PHALA_COLLATERAL, PHALA_TIME = f"{PHALA}/tdx_quote_collateral.json", 1751624191

UP_TO_DATE = {
    "Google's, with 3065 bytes after it": (
        f"{GOOGLE}/cos-113-tdx-quote.dat",
        f"{ASSEMBLED}/collateral_tdx_00806F050000_2025-07.json",
        1753175614,
        "dae67181d3d65e073ad8f95b7907d5e927bfe9761c9ff3e9b89734a45d8954dba41394c7717cb2735396c1d04231f94a",
        ("TDX quote v4 (TD report 1.0)", "00806f050000", "11", "6", "3065"),
    ),
    "version 5, TD report 1.5": (
        V5,
        V5_COLLATERAL,
        V5_TIME,
        "7348651a34b2d2d3462822e3a750ec6110125f36757c78480bbfc69cc0d21fb001a1ced3ee19747dda8f750c3bc8f876",
        ("TDX quote v5 (TD report 1.5)", "90c06f000000", "13", "7", "0"),
    ),
    "the same, a month later": (
        V5,
        f"{PHALA}/tdx_quote_outdated_collateral.json",
        1772707803,
        "7348651a34b2d2d3462822e3a750ec6110125f36757c78480bbfc69cc0d21fb001a1ced3ee19747dda8f750c3bc8f876",
        ("TDX quote v5 (TD report 1.5)", "90c06f000000", "13", "7", "0"),
    ),
    "Phala's": (
        f"{PHALA}/tdx_quote",
        PHALA_COLLATERAL,
        PHALA_TIME,
        "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7",
        ("TDX quote v4 (TD report 1.0)", "b0c06f000000", "11", "6", "70"),
    ),
    "Phala's, in hex": (
        f"{PHALA}/quote_hex.txt",
        f"{PHALA}/quote_collateral.json",
        1758093775,
        "f06dfda6dce1cf904d4e2bab1dc370634cf95cefa2ceb2de2eee127c9382698090d7a4a13e14c536ec6c9c3c8fa87077",
        ("TDX quote v4 (TD report 1.0)", "20a06f000000", "13", "6", "70"),
    ),
}

WITHOUT_LEVEL = {
    "an early server's": (
        f"{GOOGLE}/tdx_prod_quote_SPR_E4.dat",
        f"{ASSEMBLED}/collateral_tdx_50806F000000_2023-06.json",
        1687939438,
    ),
    "an outdated module's": (f"{PHALA}/tdx_quote_outdated", V5_COLLATERAL, V5_TIME),
    "an outdated module's, a month later": (
        f"{PHALA}/tdx_quote_outdated",
        f"{PHALA}/tdx_quote_outdated_collateral.json",
        1772707803,
    ),
    "one daemon's": (f"{PHALA}/quote-from-tappd.hex", PHALA_COLLATERAL, PHALA_TIME),
    "another's": (f"{PHALA}/tdx-quote.hex", PHALA_COLLATERAL, PHALA_TIME),
}


@pytest.mark.parametrize("name", UP_TO_DATE)
def test_real_quotes_that_are_up_to_date(dcap: Any, dcap_evidence: Path, name: str) -> None:
    quote, collateral, as_of, mrtd, told = UP_TO_DATE[name]
    claims = dcap.claims_of(
        dcap.verify(
            TDX,
            dcap.read_sample(dcap_evidence / quote),
            dcap.read_collateral(dcap_evidence / collateral),
            as_of=as_of,
        )
    )
    assert (claims.tee, claims.root, claims.simulated, claims.debug) == (Tee.TDX, "intel-sgx", False, False)
    assert claims.tcb_status is TcbStatus.UP_TO_DATE
    assert claims.advisories == frozenset()
    assert claims.measurement == claims.registers["mrtd"] == mrtd
    trailing = claims.attributes["trailing_bytes"]
    assert (claims.format, claims.fmspc, claims.tcb["pcesvn"], claims.tcb["qe_svn"], trailing) == told


@pytest.mark.parametrize("name", WITHOUT_LEVEL)
def test_real_quotes_below_every_level(dcap: Any, dcap_evidence: Path, name: str) -> None:
    quote, collateral, as_of = WITHOUT_LEVEL[name]
    verification = dcap.verify(
        TDX,
        dcap.read_sample(dcap_evidence / quote),
        dcap.read_collateral(dcap_evidence / collateral),
        as_of=as_of,
    )
    assert next(iter(dcap.problems(verification))) == "tcb"
    found = next(check.found for check in verification.checks if check.name == "tcb")
    assert found.startswith("no level that CPUSVN ")


def test_report_data_of_a_real_quote(dcap: Any, dcap_evidence: Path) -> None:
    quote = parse_quote((dcap_evidence / GOOGLE / "cos-113-tdx-quote.dat").read_bytes())
    report = parse_td_report(quote.body, quote.body_type)
    assert report.report_data == (dcap_evidence / GOOGLE / "nonce.dat").read_bytes()


@pytest.mark.timeout(120)
def test_every_changed_byte_of_a_real_quote_is_refused(dcap: Any, dcap_evidence: Path) -> None:
    quote = (dcap_evidence / V5).read_bytes()
    collateral = dcap.read_collateral(dcap_evidence / V5_COLLATERAL)
    assert dcap.accepted_flips(TDX, quote, collateral, V5_TIME) == []


def test_changed_bytes_of_another_real_quote_are_refused(dcap: Any, dcap_evidence: Path) -> None:
    quote = (dcap_evidence / PHALA / "tdx_quote").read_bytes()
    collateral = dcap.read_collateral(dcap_evidence / PHALA_COLLATERAL)
    for position in range(0, 48 + 584 + 4 + 134 + 384 + 64 + 34, 5):
        verification = dcap.verify(TDX, dcap.flipped(quote, position), collateral, as_of=PHALA_TIME)
        assert verification.claims is None, position


def test_changed_bytes_of_real_collateral_are_refused(dcap: Any, dcap_evidence: Path) -> None:
    quote = (dcap_evidence / V5).read_bytes()
    collateral = dcap.read_collateral(dcap_evidence / V5_COLLATERAL)
    for member, step in (("tcb_info", 31), ("qe_identity", 7)):
        text = getattr(collateral, member).encode()
        for position in range(0, len(text), step):
            changed = dcap.flipped(text, position, bit=0).decode()
            spoilt = msgspec.structs.replace(collateral, **{member: changed})
            assert dcap.verify(TDX, quote, spoilt, as_of=V5_TIME).claims is None, (member, position)


@pytest.fixture(scope="module")
def intel(dcap: Any) -> Any:
    return dcap.DcapAuthority()


BODIES = {
    "1.0 in version 4": ("1.0", 4, 2),
    "1.0": ("1.0", 5, 2),
    "1.5": ("1.5", 5, 3),
    "1.5ex": ("1.5ex", 5, 4),
}


@pytest.mark.parametrize("name", BODIES)
def test_every_field_of_the_report_is_a_claim(dcap: Any, intel: Any, name: str) -> None:
    kind, version, body_type = BODIES[name]
    quote = intel.quote(dcap.td_report(kind), version=version, body_type=body_type, tee=dcap.TDX)
    claims = dcap.claims_of(dcap.verify(TDX, quote, intel.collateral(dcap.TDX), anchors=[intel.anchor]))
    assert (claims.root, claims.simulated) == ("test-0", True)
    assert claims.format == f"TDX quote v{version} (TD report {kind})"
    assert claims.registers == {"mrtd": "52" * 48} | {f"rtmr{n}": f"6{n}" * 48 for n in range(4)}
    assert (claims.config_id, claims.owner) == ("53" * 48, "54" * 48)
    assert (claims.signer, claims.product_id, claims.svn) == (None, None, None)
    assert claims.report_data == bytes(range(64))
    assert (claims.tcb["seam"], claims.tcb["seam_version"]) == ("5", "1")
    assert claims.tcb["tee_tcb_svn"] == "050103" + "00" * 13
    attributes = {
        "mrseam": "51" * 48,
        "mrsignerseam": "00" * 48,
        "seamattributes": "00" * 8,
        "tdattributes": "0000001000000000",
        "flags": "sept_ve_disable",
        "xfam": "e702060000000000",
        "mrownerconfig": "55" * 48,
    }
    if kind != "1.0":
        attributes |= {"tee_tcb_svn_2": "050103" + "00" * 13, "mrservicetd": "00" * 48}
    if kind == "1.5ex":
        attributes |= {
            "vmid": "7",
            "td_id": "71" * 32,
            "dev_info": "72" * 48,
            "init_servtd_hash": "73" * 48,
            "init_servtd_attributes": "74" * 8,
            "init_cpusvn": "75" * 16,
            "init_tee_tcb_svn": "76" * 16,
            "init_tee_fmspc": "77" * 12,
            "cur_servtd_hash": "78" * 48,
            "cur_servtd_attributes": "79" * 8,
        }
    assert {name: claims.attributes.get(name) for name in attributes} == attributes


ATTRIBUTES = {
    "debug mode": (1 << 28 | 1, "debug or profiling mode"),
    "profiling": (1 << 28 | 1 << 5, "debug or profiling mode"),
    "pending pages may raise exceptions": (0, "SEPT_VE_DISABLE"),
    "migratable": (1 << 28 | 1 << 29, "migratable"),
    "a reserved bit": (1 << 28 | 1 << 40, "bit40"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_that_leave_a_domain_open_are_refused(dcap: Any, intel: Any, name: str) -> None:
    value, told = ATTRIBUTES[name]
    body = dcap.td_report(tdattributes=value.to_bytes(8, "little"))
    quote = intel.quote(body, version=4, tee=dcap.TDX)
    verification = dcap.verify(TDX, quote, intel.collateral(dcap.TDX), anchors=[intel.anchor])
    assert dcap.problems(verification) == {"attributes": "failed"}
    assert told in verification.checks[-1].found


@pytest.mark.parametrize("bit", [16, 27, 30, 31, 62, 63])
def test_other_attributes_are_claims(dcap: Any, intel: Any, bit: int) -> None:
    body = dcap.td_report(tdattributes=(1 << 28 | 1 << bit).to_bytes(8, "little"))
    quote = intel.quote(body, version=4, tee=dcap.TDX)
    claims = dcap.claims_of(dcap.verify(TDX, quote, intel.collateral(dcap.TDX), anchors=[intel.anchor]))
    assert len(claims.attributes["flags"].split(",")) == 2


def _relaunch_levels(dcap: Any, intel: Any) -> dict[str, Any]:
    """A platform whose module was updated from security version 3 to 5 while the domain ran."""
    info: dict[str, Any] = intel.tcb_info(dcap.TDX)
    old = [{"svn": svn} for svn in (3, 0, 3, *[0] * 13)]
    level = info["tcbLevels"][0]
    info["tcbLevels"].append(
        level | {"tcb": level["tcb"] | {"tdxtcbcomponents": old}, "tcbStatus": "OutOfDate"}
    )
    info["tdxModuleIdentities"][0]["tcbLevels"].append(
        {"tcb": {"isvsvn": 3}, "tcbDate": "2023-03-13T00:00:00Z", "tcbStatus": "OutOfDate"}
    )
    return info


def test_a_domain_older_than_its_module_is_advised_to_relaunch(dcap: Any, intel: Any) -> None:
    body = dcap.td_report("1.5", tee_tcb_svn=bytes([3, 1, 3]) + bytes(13))
    quote = intel.quote(body, version=5, tee=dcap.TDX)
    collateral = intel.collateral(dcap.TDX, tcb_info=_relaunch_levels(dcap, intel))
    claims = dcap.claims_of(dcap.verify(TDX, quote, collateral, anchors=[intel.anchor]))
    assert claims.tcb_status is TcbStatus.TD_RELAUNCH_ADVISED


REFUSED = {
    "a module of another signer": ("tcb", {"mrsignerseam": bytes([1]) * 48}),
    "a module with other attributes": ("tcb", {"seamattributes": bytes([1]) + bytes(7)}),
    "a module of an unknown version": ("tcb", {"tee_tcb_svn": bytes([5, 2, 3]) + bytes(13)}),
    "a module below every level": ("tcb", {"tee_tcb_svn": bytes([3, 1, 3]) + bytes(13)}),
    "a running module below every level": ("tcb", {"tee_tcb_svn_2": bytes([3, 1, 3]) + bytes(13)}),
    "a service domain": ("attributes", {"mrservicetd": bytes([1]) * 48}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_told_by_the_check_it_is_wrong_with(dcap: Any, intel: Any, name: str) -> None:
    check, changed = REFUSED[name]
    quote = intel.quote(dcap.td_report("1.5", **changed), version=5, tee=dcap.TDX)
    verification = dcap.verify(TDX, quote, intel.collateral(dcap.TDX), anchors=[intel.anchor])
    assert next(iter(dcap.problems(verification)), None) == check


def test_a_revoked_module_is_refused(dcap: Any, intel: Any) -> None:
    info = intel.tcb_info(dcap.TDX)
    info["tdxModuleIdentities"][0]["tcbLevels"][0]["tcbStatus"] = "Revoked"
    quote = intel.quote(dcap.td_report(), version=4, tee=dcap.TDX)
    collateral = intel.collateral(dcap.TDX, tcb_info=info)
    verification = dcap.verify(TDX, quote, collateral, anchors=[intel.anchor])
    assert dcap.problems(verification) == {"tcb": "failed"}


def test_the_collateral_of_the_platforms_sgx_does_not_fit(dcap: Any, intel: Any) -> None:
    quote = intel.quote(dcap.td_report(), version=4, tee=dcap.TDX)
    verification = dcap.verify(TDX, quote, intel.collateral(dcap.SGX), anchors=[intel.anchor])
    assert dcap.problems(verification) == {"collateral": "could not check"}


def test_a_chain_in_odd_order_and_a_platform_that_is_only_named(dcap: Any, intel: Any) -> None:
    chain = dcap.pem_of(intel.root, intel.pck, intel.pck_ca)
    named = intel.collateral(dcap.TDX, pck_certificate_chain=chain)
    for certification in (
        dcap.certification_data(5, chain.encode()),
        dcap.certification_data(3, bytes(404)),
    ):
        for version, body_type in ((4, 2), (5, 2)):
            quote = intel.quote(
                dcap.td_report(),
                version=version,
                body_type=body_type,
                tee=dcap.TDX,
                certification=certification,
            )
            dcap.claims_of(dcap.verify(TDX, quote, named, anchors=[intel.anchor]))


UNREADABLE = {
    "a body of an unknown type": ({"version": 5, "body_type": 5}, "unknown type of body"),
    "a body of another type's size": ({"version": 5, "body_type": 3}, "wrong size"),
    "other certification data around": ({"version": 4, "outer": 5}, "expected 6"),
    "an SGX quote's version": ({"version": 3}, "unknown TEE type"),
    "a key of another kind": ({"version": 4, "key_type": 3}, "unknown kind of key"),
    "certification data within certification data": (
        {"version": 4, "certification": b"\x06\x00\x00\x00\x00\x00"},
        "type 6 within",
    ),
    "an unknown version": ({"version": 6}, "unknown version"),
    "too much authentication data": ({"version": 4, "auth_data": bytes(1025)}, "too large"),
    "too much certification data": (
        {"version": 4, "certification": b"\x05\x00\x01\x80\x00\x00"},
        "too large",
    ),
    "certification data of an unknown type": (
        {"version": 4, "certification": b"\x09\x00\x00\x00\x00\x00"},
        "unknown type",
    ),
    "bytes after the certification data": (
        {"version": 4, "certification": b"\x05\x00\x00\x00\x00\x00more"},
        "4 bytes more than its parts",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_why(dcap: Any, intel: Any, name: str) -> None:
    changed, why = UNREADABLE[name]
    quote = intel.quote(dcap.td_report(), tee=dcap.TDX, **changed)
    with pytest.raises(EvidenceError, match=why):
        parse_quote(quote)
    verification = dcap.verify(TDX, quote, intel.collateral(dcap.TDX), anchors=[intel.anchor])
    assert dcap.problems(verification) == {"format": "failed"}


def test_header_and_body_have_to_agree(dcap: Any, intel: Any) -> None:
    for body, body_type, tee in (
        (dcap.sgx_report(), BodyType.SGX_REPORT, dcap.TDX),
        (dcap.td_report(), BodyType.TD_REPORT_10, dcap.SGX),
    ):
        with pytest.raises(EvidenceError, match="disagree"):
            parse_quote(intel.quote(body, version=5, body_type=int(body_type), tee=tee))


@given(cut=st.integers(0, 6000))
def test_a_quote_that_ends_early_is_unreadable_wherever_it_ends(dcap: Any, cut: int) -> None:
    intel = dcap.DcapAuthority()
    quote = intel.quote(dcap.td_report("1.5"), version=5, tee=dcap.TDX)
    with pytest.raises(EvidenceError):
        parse_quote(quote[: cut % len(quote)])


@given(body=st.binary(max_size=1000), body_type=st.sampled_from(BodyType))
def test_only_bodies_of_the_right_size_are_reports(body: bytes, body_type: BodyType) -> None:
    with pytest.raises(EvidenceError):
        parse_td_report(body[:583], body_type)
    if body_type is not BodyType.SGX_REPORT:
        size = {2: 584, 3: 648, 4: 885}[int(body_type)]
        assert (
            parse_td_report(body.ljust(size, b"\1")[:size], body_type).tee_tcb_svn
            == body.ljust(16, b"\1")[:16]
        )


@given(data=st.data())
def test_no_evidence_makes_the_verification_raise(dcap: Any, data: st.DataObject) -> None:
    intel = dcap.DcapAuthority()
    quote = intel.quote(dcap.td_report("1.5ex"), version=5, body_type=4, tee=dcap.TDX)
    start = data.draw(st.integers(0, len(quote)))
    quote = quote[:start] + data.draw(st.binary(max_size=60)) + quote[start + data.draw(st.integers(0, 60)) :]
    dcap.verify(TDX, quote, intel.collateral(dcap.TDX), anchors=[intel.anchor])
