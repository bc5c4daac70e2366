"""SGX quotes of DCAP: real ones reach the outcome that is known of them, spoilt ones fail at the check that says why."""

import contextlib
import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from avalon_core.attestation.claims import TcbStatus
from avalon_core.attestation.dcap.pck import platform_of
from avalon_core.attestation.dcap.quotes import CertificationType, parse_quote, parse_sgx_report
from avalon_core.attestation.dcap.tcb_info import parse_qe_identity, parse_tcb_info
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.sgx_dcap import SGX_DCAP
from avalon_core.attestation.tdx import TDX
from avalon_core.errors import EvidenceError

PHALA = "sgx-dcap/phala-network-dcap-qvl/sgx_quote"
PHALA_COLLATERAL = "sgx-dcap/phala-network-dcap-qvl/sgx_quote_collateral.json"
PHALA_TIME = 1751624924
OASIS = "sgx-dcap/oasisprotocol-oasis-core"
OASIS_COLLATERAL = "sgx-dcap/assembled/collateral_sgx_00606A000000_2025-08.json"
OASIS_TIME = 1756530546

REAL = {
    "a client's, whose configuration and software want hardening": (
        PHALA,
        PHALA_COLLATERAL,
        PHALA_TIME,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        "00289 00615",
        "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb",
        ("00a067110000", "13", "10", 17),
    ),
    "a server's, out of date": (
        f"{OASIS}/quote_v3_ecdsa_p256_pck_chain.bin",
        OASIS_COLLATERAL,
        OASIS_TIME,
        TcbStatus.OUT_OF_DATE,
        "00657 00730 00738 00767 00828 00837 00960 00615",
        "68823bc62f409ee33a32ea270cfe45d4b19a6fb3c8570d7bc186cbe062398e8f",
        ("00606a000000", "13", "9", 17),
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_quotes(dcap: Any, dcap_evidence: Path, name: str) -> None:
    quote, collateral, as_of, status, advisories, mrenclave, platform = REAL[name]
    claims = dcap.claims_of(
        dcap.verify(
            SGX_DCAP,
            dcap.read_sample(dcap_evidence / quote),
            dcap.read_collateral(dcap_evidence / collateral),
            as_of=as_of,
        )
    )
    assert (claims.root, claims.simulated, claims.debug) == ("intel-sgx", False, False)
    assert claims.tcb_status is status
    assert claims.advisories == {f"INTEL-SA-{number}" for number in advisories.split()}
    assert claims.measurement == mrenclave
    assert (claims.product_id, claims.svn, claims.config_svn) == (0, 0, 0)
    found = claims.fmspc, claims.tcb["pcesvn"], claims.tcb["qe_svn"], claims.tcb_evaluation
    assert found == platform


def test_the_claims_of_a_real_quote(dcap: Any, dcap_evidence: Path) -> None:
    claims = dcap.claims_of(
        dcap.verify(
            SGX_DCAP,
            (dcap_evidence / PHALA).read_bytes(),
            dcap.read_collateral(dcap_evidence / PHALA_COLLATERAL),
            as_of=PHALA_TIME,
        )
    )
    assert claims.format == "SGX quote v3"
    assert claims.report_data == b"Hello, world!".ljust(64, b"\0")
    assert claims.signer == "815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6"
    assert claims.chip_id == "d04ec06d4e6d92dc90d0ad3cf5ee2ddf"
    assert claims.collateral_expires == 1752919278
    assert claims.tcb["cpusvn"] == "0b0b0202ff0100000000000000000000"
    assert claims.attributes["flags"] == "init,mode64bit"
    assert claims.attributes["report_cpusvn"] == "0b0b1a18ffff04000000000000000000"


def test_a_quote_that_only_names_its_platform_needs_its_certificate(dcap: Any, dcap_evidence: Path) -> None:
    quote = (dcap_evidence / OASIS / "quote_v3_ecdsa_p256_eppid.bin").read_bytes()
    assert parse_quote(quote).signature.certification.type is CertificationType.PPID_RSA_3072
    collateral = dcap.read_collateral(dcap_evidence / OASIS_COLLATERAL)
    verification = dcap.verify(SGX_DCAP, quote, collateral, as_of=OASIS_TIME)
    assert dcap.problems(verification) == {"chain": "could not check"}
    other = parse_quote((dcap_evidence / OASIS / "quote_v3_ecdsa_p256_pck_chain.bin").read_bytes())
    chain = other.signature.certification.content.rstrip(b"\0").decode()
    with_other = msgspec.structs.replace(collateral, pck_certificate_chain=chain)
    verification = dcap.verify(SGX_DCAP, quote, with_other, as_of=OASIS_TIME)
    assert dcap.problems(verification) == {"chain": "could not check"}


def test_tcb_info_is_not_taken_from_the_pck_authority(dcap: Any, dcap_evidence: Path) -> None:
    folder = dcap_evidence / OASIS
    text = (folder / "tcb_info_v3_fmspc_00606A000000.json").read_text()
    info = text[text.index('{"tcbInfo":') + 11 : text.rindex(',"signature"')]
    signature = json.loads(text)["signature"]
    whole = dcap.read_collateral(dcap_evidence / OASIS_COLLATERAL)
    for chain, verdict in (("certs_bad", "failed"), ("certs", "could not check")):
        collateral = msgspec.structs.replace(
            whole,
            tcb_info=info,
            tcb_info_signature=signature,
            tcb_info_issuer_chain=(folder / f"tcb_info_v3_fmspc_00606A000000_{chain}.pem").read_text(),
        )
        quote = (folder / "quote_v3_ecdsa_p256_pck_chain.bin").read_bytes()
        # The good one is signed well, of 2022, and stands beside CRLs of 2025: there is no day of which both speak.
        verification = dcap.verify(SGX_DCAP, quote, collateral, as_of=1672531200)
        assert dcap.problems(verification)["collateral"] == verdict


@pytest.mark.timeout(120)
def test_every_changed_byte_of_a_real_quote_is_refused(dcap: Any, dcap_evidence: Path) -> None:
    quote = (dcap_evidence / PHALA).read_bytes()
    collateral = dcap.read_collateral(dcap_evidence / PHALA_COLLATERAL)
    assert dcap.accepted_flips(SGX_DCAP, quote, collateral, PHALA_TIME) == []


def test_changed_bytes_of_real_collateral_are_refused(dcap: Any, dcap_evidence: Path) -> None:
    quote = (dcap_evidence / PHALA).read_bytes()
    collateral = dcap.read_collateral(dcap_evidence / PHALA_COLLATERAL)
    for member, step in (("tcb_info", 23), ("qe_identity", 5)):
        text = getattr(collateral, member).encode()
        for position in range(0, len(text), step):
            changed = dcap.flipped(text, position, bit=0).decode()
            spoilt = msgspec.structs.replace(collateral, **{member: changed})
            assert dcap.verify(SGX_DCAP, quote, spoilt, as_of=PHALA_TIME).claims is None, (member, position)
    for member, step in (
        ("root_ca_crl", 3),
        ("pck_crl", 11),
        ("tcb_info_signature", 1),
        ("qe_identity_signature", 1),
    ):
        raw = bytes.fromhex(getattr(collateral, member))
        for position in range(0, len(raw), step):
            spoilt = msgspec.structs.replace(collateral, **{member: dcap.flipped(raw, position).hex()})
            assert dcap.verify(SGX_DCAP, quote, spoilt, as_of=PHALA_TIME).claims is None, (member, position)


@pytest.fixture(scope="module")
def intel(dcap: Any) -> Any:
    return dcap.DcapAuthority()


def test_every_field_of_the_report_is_a_claim(dcap: Any, intel: Any) -> None:
    verification = dcap.verify(SGX_DCAP, intel.quote(), intel.collateral(), anchors=[intel.anchor])
    claims = dcap.claims_of(verification)
    assert (claims.root, claims.simulated) == ("test-0", True)
    assert claims.measurement == "11" * 32
    assert claims.signer == "22" * 32
    assert claims.config_id == "33" * 64
    assert claims.family_id == "44" * 16
    assert claims.ext_product_id == bytes(range(16)).hex()
    assert (claims.product_id, claims.svn, claims.config_svn) == (7, 3, 9)
    assert claims.report_data == bytes(range(64))
    assert claims.fmspc == intel.fmspc.hex()
    assert claims.tcb_status is TcbStatus.UP_TO_DATE
    assert claims.collateral_expires == int(intel.end.timestamp())
    assert "SIMULATED" in next(c.found for c in verification.checks if c.name == "root")


STATUSES = [status for status in TcbStatus if "Relaunch" not in status and status is not TcbStatus.REVOKED]


@pytest.mark.parametrize("status", STATUSES)
def test_the_status_is_a_claim_and_so_are_advisories(dcap: Any, intel: Any, status: TcbStatus) -> None:
    collateral = intel.collateral(tcb_info=intel.with_status(dcap.SGX, status, ["INTEL-SA-99999"]))
    claims = dcap.claims_of(dcap.verify(SGX_DCAP, intel.quote(), collateral, anchors=[intel.anchor]))
    assert claims.tcb_status is status
    assert claims.advisories == {"INTEL-SA-99999"}


def test_an_outdated_quoting_enclave_makes_the_status_worse(dcap: Any, intel: Any) -> None:
    quote = intel.quote(qe_report={"isvsvn": b"\x06\x00"})
    claims = dcap.claims_of(dcap.verify(SGX_DCAP, quote, intel.collateral(), anchors=[intel.anchor]))
    assert claims.tcb_status is TcbStatus.OUT_OF_DATE
    assert claims.advisories == {"INTEL-SA-00615"}
    assert claims.tcb["qe_status"] == "OutOfDate"


def _signed_by(dcap: Any, intel: Any, key: str, chain: str) -> Any:
    """The same TCB info, signed with another key of the same world."""
    info = intel.collateral().tcb_info
    signature = dcap.raw_signature(intel.keys[key], info.encode()).hex()
    return intel.collateral(tcb_info_signature=signature, tcb_info_issuer_chain=chain)


def _qe_levels(*levels: tuple[int, str]) -> list[dict[str, Any]]:
    return [
        {"tcb": {"isvsvn": n}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status} for n, status in levels
    ]


REFUSED = {
    "another quote's body": ("quote signature", lambda d, i: {"quote": d.flipped(i.quote(), 100)}),
    "a changed QE report": ("qe signature", lambda d, i: {"quote": d.flipped(i.quote(), 48 + 384 + 4 + 128)}),
    "a QE report with other report data": (
        "qe binding",
        lambda d, i: {"quote": i.quote(qe_report={"reportdata": bytes(64)})},
    ),
    "a QE report with more report data": (
        "qe binding",
        lambda d, i: {"quote": _with_more_report_data(d, i)},
    ),
    "a QE of another signer": (
        "qe identity",
        lambda d, i: {"quote": i.quote(qe_report={"mrsigner": bytes(32)})},
    ),
    "another enclave of Intel's": (
        "qe identity",
        lambda d, i: {"quote": i.quote(qe_report={"isvprodid": b"\x02\x00"})},
    ),
    "a QE in debug mode": (
        "qe identity",
        lambda d, i: {"quote": i.quote(qe_report={"attributes": b"\x17" + bytes(15)})},
    ),
    "a QE with other miscselect": (
        "qe identity",
        lambda d, i: {"quote": i.quote(qe_report={"miscselect": b"\x01\x00\x00\x00"})},
    ),
    "a QE below every level": (
        "qe identity",
        lambda d, i: {"quote": i.quote(qe_report={"isvsvn": b"\x05\x00"})},
    ),
    "a revoked QE": (
        "qe identity",
        lambda d, i: {
            "collateral": i.collateral(qe_identity=i.qe_identity(d.SGX, tcbLevels=_qe_levels((8, "Revoked"))))
        },
    ),
    "a revoked level": (
        "tcb",
        lambda d, i: {"collateral": i.collateral(tcb_info=i.with_status(d.SGX, "Revoked"))},
    ),
    "no level": ("tcb", lambda d, i: {"collateral": i.collateral(tcb_info=_higher(d, i))}),
    "a debug enclave": (
        "attributes",
        lambda d, i: {"quote": i.quote(d.sgx_report(attributes=b"\x07" + bytes(15)))},
    ),
    "a revoked platform": (
        "revocation",
        lambda d, i: {"collateral": i.collateral(revoked_by_pck_ca=[i.pck])},
    ),
    "a revoked PCK authority": (
        "revocation",
        lambda d, i: {"collateral": i.collateral(revoked_by_root=[i.pck_ca])},
    ),
    "a revoked TCB signer": (
        "revocation",
        lambda d, i: {"collateral": i.collateral(revoked_by_root=[i.tcb_signer])},
    ),
    "the CRL of another authority": (
        "revocation",
        lambda d, i: {"collateral": i.collateral(pck_crl=i.crl("root"))},
    ),
    "another's CRL": (
        "revocation",
        lambda d, i: {"collateral": i.collateral(pck_crl=d.DcapAuthority(number=1).crl("pck_ca"))},
    ),
    "expired certificates": (
        "validity",
        lambda d, i: {"world": d.DcapAuthority(certificates_end=d.NOW - timedelta(days=1))},
    ),
    "an unknown root": ("root", lambda d, i: {"anchors": [d.DcapAuthority(number=1).anchor]}),
    "no root at all": ("root", lambda d, i: {"anchors": []}),
    "the collateral of another world": (
        "collateral",
        lambda d, i: {
            "collateral": d.DcapAuthority(number=1).collateral(),
            "anchors": [i.anchor, d.DcapAuthority(number=1).anchor],
        },
    ),
    "TCB info of another world": (
        "collateral",
        lambda d, i: {
            "collateral": _other_tcb_info(i, d.DcapAuthority(number=1)),
            "anchors": [i.anchor, d.DcapAuthority(number=1).anchor],
        },
    ),
    "a CRL issuer of another world": (
        "collateral",
        lambda d, i: {
            "collateral": i.collateral(
                pck_crl_issuer_chain=d.DcapAuthority(number=1).collateral().pck_crl_issuer_chain
            )
        },
    ),
    "TCB info that a platform signed": (
        "collateral",
        lambda d, i: {"collateral": _signed_by(d, i, "pck", d.pem_of(i.pck, i.pck_ca, i.root))},
    ),
    "TCB info that the PCK authority signed": (
        "collateral",
        lambda d, i: {"collateral": _signed_by(d, i, "pck_ca", d.pem_of(i.pck_ca, i.root))},
    ),
    "TCB info that the root signed": (
        "collateral",
        lambda d, i: {"collateral": _signed_by(d, i, "root", d.pem_of(i.root))},
    ),
    "TCB info that another key signed": (
        "collateral",
        lambda d, i: {"collateral": _signed_by(d, i, "pck", d.pem_of(i.tcb_signer, i.root))},
    ),
    "a chain of the TCB signer without its root": (
        "collateral",
        lambda d, i: {"collateral": i.collateral(tcb_info_issuer_chain=d.pem_of(i.tcb_signer))},
    ),
    "issuer chains that were swapped": (
        "collateral",
        lambda d, i: {"collateral": i.collateral(tcb_info_issuer_chain=d.pem_of(i.pck_ca, i.root))},
    ),
    "TDX's quoting enclave": (
        "collateral",
        lambda d, i: {"collateral": i.collateral(qe_identity=i.qe_identity(d.TDX))},
    ),
    "no PCK certificate in the chain": (
        "chain",
        lambda d, i: {"quote": _with_chain(d, i, i.pck_ca, i.root)},
    ),
    "a leaf that nobody at hand issued": (
        "chain",
        lambda d, i: {"quote": _with_chain(d, i, d.DcapAuthority(number=1).pck)},
    ),
    "a chain that is no PEM": (
        "chain",
        lambda d, i: {"quote": i.quote(certification=d.certification_data(5, b"certificates"))},
    ),
    "another vendor's quoting enclave": ("format", lambda d, i: {"quote": d.flipped(i.quote(), 12)}),
    "no quote": ("format", lambda d, i: {"quote": b"quote" * 200}),
    "nothing": ("format", lambda d, i: {"quote": b""}),
    "a quote that ends early": ("format", lambda d, i: {"quote": i.quote()[:-1]}),
    "a quote of TDX": (
        "format",
        lambda d, i: {"quote": i.quote(d.td_report(), version=4, tee=d.TDX)},
    ),
}


def _with_more_report_data(dcap: Any, intel: Any) -> bytes:
    """The second half of the QE's report data has to be zero: "QE Report Data" of the quote format."""
    good = parse_quote(intel.quote()).signature.qe_report.report_data
    return intel.quote(qe_report={"reportdata": good[:32] + bytes(31) + b"\x01"})


def _higher(dcap: Any, intel: Any) -> dict[str, Any]:
    info: dict[str, Any] = intel.tcb_info(dcap.SGX)
    info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][3]["svn"] += 1
    return info


def _other_tcb_info(intel: Any, other: Any) -> Any:
    theirs = other.collateral()
    return intel.collateral(
        tcb_info=json.loads(theirs.tcb_info),
        tcb_info_signature=theirs.tcb_info_signature,
        tcb_info_issuer_chain=theirs.tcb_info_issuer_chain,
    )


def _with_chain(dcap: Any, intel: Any, *certificates: Any) -> bytes:
    return intel.quote(certification=dcap.certification_data(5, dcap.pem_of(*certificates).encode()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_told_by_the_check_it_is_wrong_with(dcap: Any, intel: Any, name: str) -> None:
    check, spoil = REFUSED[name]
    spoilt = spoil(dcap, intel)
    world = spoilt.get("world", intel)
    quote = spoilt.get("quote") if "quote" in spoilt else world.quote()
    collateral = spoilt.get("collateral") or world.collateral()
    verification = dcap.verify(SGX_DCAP, quote, collateral, anchors=spoilt.get("anchors", [world.anchor]))
    assert next(iter(dcap.problems(verification))) == check, dcap.problems(verification)


REMEDIED = {
    "no collateral": ("collateral", lambda d, i: {"collateral": []}),
    "another platform's collateral": (
        "collateral",
        lambda d, i: {"collateral": [d.DcapAuthority(fmspc=b"other!").collateral()]},
    ),
    "the collateral of the platform's TDX": (
        "collateral",
        lambda d, i: {"collateral": [i.collateral(d.TDX)]},
    ),
    "collateral that cannot be read": (
        "collateral",
        lambda d, i: {"collateral": [i.collateral(pck_crl="00")]},
    ),
    "collateral that begins tomorrow": (
        "collateral",
        lambda d, i: {"collateral": [d.DcapAuthority(start=d.NOW + timedelta(days=1)).collateral()]},
    ),
    "collateral that ended": (
        "collateral",
        lambda d, i: {"collateral": [d.DcapAuthority(end=d.NOW).collateral()]},
    ),
    "a quote of version 4": ("format", lambda d, i: {"quote": i.quote(version=4)}),
    "a quote of version 5": ("format", lambda d, i: {"quote": i.quote(version=5, body_type=1)}),
    "authentication data of another size": ("qe binding", lambda d, i: {"quote": i.quote(auth_data=b"12")}),
    "a platform manifest": (
        "chain",
        lambda d, i: {"quote": i.quote(certification=d.certification_data(7, bytes(900)))},
    ),
}


@pytest.mark.parametrize("name", REMEDIED)
def test_what_could_not_be_checked_names_a_remedy(dcap: Any, intel: Any, name: str) -> None:
    check, change = REMEDIED[name]
    changed = change(dcap, intel)
    verification = dcap.verify(
        SGX_DCAP,
        changed.get("quote") or intel.quote(),
        *changed.get("collateral", [intel.collateral()]),
        anchors=[intel.anchor],
    )
    # Collateral of another time brings CRLs of another time.
    expected = dict.fromkeys((check, "revocation"), "could not check")
    assert dcap.problems(verification).items() <= expected.items()
    assert dcap.problems(verification)[check] == "could not check"


def test_grace_prolongs_the_collateral_and_says_so(dcap: Any, intel: Any) -> None:
    def after(late: timedelta, grace: timedelta) -> Any:
        return dcap.verify(
            SGX_DCAP,
            intel.quote(),
            intel.collateral(),
            anchors=[intel.anchor],
            as_of=intel.end + late,
            grace=grace,
        )

    second, day = timedelta(seconds=1), timedelta(days=1)
    assert dcap.claims_of(after(-second, timedelta(0))).collateral_expires == int(intel.end.timestamp())
    assert "collateral" in dcap.problems(after(timedelta(0), timedelta(0)))
    taken = after(day - second, day)
    assert dcap.claims_of(taken).collateral_expires == int(intel.end.timestamp())
    assert "grace of 1 day" in next(c.found for c in taken.checks if c.name == "collateral")
    assert "collateral" in dcap.problems(after(day, day))


def test_certificates_have_no_grace(dcap: Any) -> None:
    intel = dcap.DcapAuthority(certificates_end=dcap.NOW + timedelta(days=20, hours=1))
    for late, check in ((timedelta(minutes=59), None), (timedelta(hours=2), "validity")):
        verification = dcap.verify(
            SGX_DCAP,
            intel.quote(),
            intel.collateral(),
            anchors=[intel.anchor],
            as_of=intel.end + late,
            grace=timedelta(days=3),
        )
        assert next(iter(dcap.problems(verification)), None) == check


def test_a_signer_of_the_collateral_has_no_grace_either(dcap: Any, intel: Any) -> None:
    end = intel.end + timedelta(hours=1)
    signer = intel.certificate("tcb_signer", "Test TCB Signing", "root", intel.root_name, end=end)
    chain = dcap.pem_of(signer, intel.root)
    collateral = intel.collateral(tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain)
    for late, check in ((timedelta(minutes=59), None), (timedelta(hours=2), "collateral")):
        verification = dcap.verify(
            SGX_DCAP,
            intel.quote(),
            collateral,
            anchors=[intel.anchor],
            as_of=intel.end + late,
            grace=timedelta(days=3),
        )
        assert next(iter(dcap.problems(verification)), None) == check


def test_the_collateral_that_speaks_of_the_time_is_taken(dcap: Any, intel: Any) -> None:
    old = dcap.DcapAuthority(start=dcap.NOW - timedelta(days=60), end=dcap.NOW - timedelta(days=30))
    sets = old.collateral(tcb_info=old.with_status(dcap.SGX, "OutOfDate")), intel.collateral()
    for order in (sets, sets[::-1]):
        claims = dcap.claims_of(dcap.verify(SGX_DCAP, intel.quote(), *order, anchors=[intel.anchor]))
        assert claims.tcb_status is TcbStatus.UP_TO_DATE
        then = dcap.NOW - timedelta(days=40)
        claims = dcap.claims_of(
            dcap.verify(SGX_DCAP, intel.quote(), *order, anchors=[intel.anchor], as_of=then)
        )
        assert claims.tcb_status is TcbStatus.OUT_OF_DATE


def test_the_case_of_the_fmspc_does_not_matter(dcap: Any, intel: Any) -> None:
    collateral = intel.collateral(tcb_info=intel.tcb_info(dcap.SGX, fmspc=intel.fmspc.hex().upper()))
    dcap.claims_of(dcap.verify(SGX_DCAP, intel.quote(), collateral, anchors=[intel.anchor]))


def test_the_order_of_a_chain_does_not_matter(dcap: Any, intel: Any) -> None:
    for order in itertools.permutations((intel.pck, intel.pck_ca, intel.root)):
        quote = _with_chain(dcap, intel, *order)
        dcap.claims_of(dcap.verify(SGX_DCAP, quote, intel.collateral(), anchors=[intel.anchor]))
    chain = dcap.pem_of(intel.root, intel.tcb_signer)
    collateral = intel.collateral(tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain)
    dcap.claims_of(dcap.verify(SGX_DCAP, intel.quote(), collateral, anchors=[intel.anchor]))


def test_issuers_that_the_quote_lacks_come_from_the_collateral(dcap: Any, intel: Any) -> None:
    whole = (intel.pck, intel.pck_ca, intel.root)
    for chain in (whole[:1], whole[:2], (intel.root, intel.pck), (*whole, *whole)):
        quote = _with_chain(dcap, intel, *chain)
        dcap.claims_of(dcap.verify(SGX_DCAP, quote, intel.collateral(), anchors=[intel.anchor]))


def test_certificates_of_no_concern_are_refused_in_a_chain(dcap: Any, intel: Any) -> None:
    other = dcap.DcapAuthority(number=1)
    whole = (intel.pck, intel.pck_ca, intel.root)
    for chain in ((*whole, other.root), (other.pck, *whole), (intel.pck, other.pck_ca, *whole[1:])):
        quote = _with_chain(dcap, intel, *chain)
        verification = dcap.verify(SGX_DCAP, quote, intel.collateral(), anchors=[intel.anchor, other.anchor])
        assert dcap.problems(verification) == {"chain": "failed"}


@pytest.mark.parametrize(("kind", "size"), [(1, 36), (2, 276), (3, 404)])
def test_a_platform_that_is_only_named_is_found_in_the_collateral(
    dcap: Any, intel: Any, kind: int, size: int
) -> None:
    quote = intel.quote(certification=dcap.certification_data(kind, bytes(size)))
    other = dcap.DcapAuthority(number=1)
    chain = dcap.pem_of(intel.pck, intel.pck_ca, intel.root)
    collateral = (
        intel.collateral(pck_certificate_chain=dcap.pem_of(other.pck, other.pck_ca, other.root)),
        intel.collateral(pck_certificate_chain=chain),
    )
    claims = dcap.claims_of(dcap.verify(SGX_DCAP, quote, *collateral, anchors=[intel.anchor]))
    assert claims.attributes["certification_type"] == str(kind)
    for wrong in (size - 1, size + 1):
        with pytest.raises(EvidenceError, match=f"type {kind}"):
            parse_quote(intel.quote(certification=dcap.certification_data(kind, bytes(wrong))))


def test_a_leaf_alone_is_completed_from_the_collateral(dcap: Any, intel: Any) -> None:
    for content in (dcap.pem_of(intel.pck).encode(), dcap.der_of(intel.pck)):
        quote = intel.quote(certification=dcap.certification_data(4, content))
        dcap.claims_of(dcap.verify(SGX_DCAP, quote, intel.collateral(), anchors=[intel.anchor]))


def test_bytes_after_the_signature_data_are_reported(dcap: Any, intel: Any) -> None:
    quote = intel.quote(trailing=bytes(70))
    verification = dcap.verify(SGX_DCAP, quote, intel.collateral(), anchors=[intel.anchor])
    assert dcap.claims_of(verification).attributes["trailing_bytes"] == "70"
    assert "70 bytes after it" in verification.checks[0].found


def test_detection_goes_by_the_header(dcap: Any, intel: Any) -> None:
    sgx = intel.quote(), intel.quote(version=4), intel.quote(version=5, body_type=1)
    tdx = [intel.quote(dcap.td_report(), version=version, body_type=2, tee=dcap.TDX) for version in (4, 5)]
    assert all(SGX_DCAP.detect(quote) and not TDX.detect(quote) for quote in sgx)
    assert all(TDX.detect(quote) and not SGX_DCAP.detect(quote) for quote in tdx)
    for other in (b"", b"\x03\x00\x02\x00", bytes(5000), b"quote" * 200):
        assert not SGX_DCAP.detect(other)
        assert not TDX.detect(other)


def test_both_are_registered() -> None:
    assert FORMATS["sgx-dcap"] is SGX_DCAP
    assert FORMATS["tdx"] is TDX
    assert (SGX_DCAP.proof_data_type, TDX.proof_data_type) == ("TEE-SGX-DCAP", "TEE-TDX")


def test_parsing_gives_every_field(dcap: Any, intel: Any) -> None:
    quote = parse_quote(intel.quote(trailing=b"xy"))
    assert (quote.header.version, quote.header.tee_type, quote.header.attestation_key_type) == (3, 0, 2)
    assert (quote.header.qe_svn, quote.header.pce_svn) == (8, dcap.PCESVN)
    assert quote.header.qe_vendor_id == dcap.QE_VENDOR
    assert quote.trailing == 2
    assert quote.signature.qe_auth_data == bytes(range(32))
    assert quote.signature.qe_report.isvsvn == 8
    report = parse_sgx_report(quote.body)
    assert report.cpusvn == dcap.CPUSVN
    assert (report.miscselect, report.isvprodid, report.isvsvn, report.configsvn) == (0, 7, 3, 9)
    platform = platform_of(intel.pck)
    assert (platform.fmspc, platform.cpusvn, platform.pcesvn) == (dcap.FMSPC, dcap.CPUSVN, dcap.PCESVN)


@given(st.data())
def test_no_bytes_make_the_parsers_fail_otherwise(dcap: Any, data: st.DataObject) -> None:
    intel = dcap.DcapAuthority()
    good = intel.quote(version=data.draw(st.sampled_from([3, 4, 5])), body_type=1)
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    document = good[:start] + data.draw(st.binary(max_size=40)) + good[end:]
    with contextlib.suppress(EvidenceError):
        parse_quote(document)


@given(extension=st.binary(max_size=80), keep=st.integers(0, 300))
def test_no_extension_makes_the_reader_fail_otherwise(dcap: Any, extension: bytes, keep: int) -> None:
    good = dcap.sgx_extension()
    for content in (
        extension,
        good[:keep] + extension,
        good[:keep] + extension + good[keep + len(extension) :],
    ):
        certificate = dcap.DcapAuthority().certificate("pck", "P", "pck_ca", "CA", extension=content)
        with contextlib.suppress(EvidenceError):
            platform_of(certificate)


@given(
    text=st.one_of(
        st.text(max_size=60), st.recursive(st.integers() | st.text(max_size=5), st.lists).map(json.dumps)
    )
)
def test_no_text_makes_the_readers_of_statements_fail_otherwise(text: str) -> None:
    for parse in (parse_tcb_info, parse_qe_identity):
        with pytest.raises(EvidenceError):
            parse(text)


@given(data=st.data())
def test_no_evidence_makes_the_verification_raise(dcap: Any, data: st.DataObject) -> None:
    intel = dcap.DcapAuthority()
    quote, collateral = intel.quote(), intel.collateral()
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(quote)))
        quote = (
            quote[:start] + data.draw(st.binary(max_size=60)) + quote[start + data.draw(st.integers(0, 60)) :]
        )
    else:
        member = data.draw(
            st.sampled_from([f for f in collateral.__struct_fields__ if f != "pck_certificate_chain"])
        )
        text = getattr(collateral, member)
        start = data.draw(st.integers(0, len(text)))
        spoilt = (
            text[:start] + data.draw(st.text(max_size=20)) + text[start + data.draw(st.integers(0, 20)) :]
        )
        collateral = msgspec.structs.replace(collateral, **{member: spoilt})
    dcap.verify(SGX_DCAP, quote, collateral, anchors=[intel.anchor])
