"""All simulated vendors behind one question: SIMULATED evidence of a kind, for a measurement and report data, in a state.

This is what the quoting process and the command line ask. Tests that set single fields use the vendors themselves:
:mod:`~avalon_core.simulator.intel`, :mod:`~avalon_core.simulator.snp`, :mod:`~avalon_core.simulator.nitro`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral, SnpCollateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.errors import EvidenceError
from avalon_core.simulator.intel import IntelSimulator
from avalon_core.simulator.intel_tcb import Kind, validity_at
from avalon_core.simulator.quotes import SgxReport, TdReport
from avalon_core.simulator.seeds import DEFAULT_SEED, Seed
from avalon_core.simulator.states import EXPECTATIONS, State

if TYPE_CHECKING:
    # The quoting process starts in a fraction of a second because it loads a vendor only when it is asked for one.
    from avalon_core.simulator.nitro import NitroPki
    from avalon_core.simulator.snp import SimulatedAmd

REPORT_DATA_BYTES = 64

MEASUREMENT_BYTES: Mapping[str, int] = MappingProxyType({"sgx": 32, "tdx": 48, "snp": 48, "nitro": 48})
"""Of MRENCLAVE, MRTD, the launch measurement, PCR0."""

EVIDENCE_FORMATS: Mapping[str, str] = MappingProxyType(
    {"sgx": "sgx-dcap", "tdx": "tdx", "snp": "snp", "nitro": "nitro"}
)
"""The names that :attr:`Evidence.format` has for these kinds."""

SIGNER = hashlib.sha256(b"SIMULATED signer of avalon_enclave").digest()
"""Stands for MRSIGNER of our enclaves: 32 bytes."""

_SNP_POLICY_DEBUG = 1 << 19
_SNP_POLICY = 0x30000
_SNP_OLD = 1
"""Taken off each security version of an old platform."""

_STALE = timedelta(hours=2)
_EXPIRED = timedelta(hours=4)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRequest:
    """What is asked for.

    Raises:
        EvidenceError: no such kind or state, or a value of another length than its place.
    """

    kind: str
    """``sgx``, ``tdx``, ``snp`` or ``nitro``."""

    measurement: bytes
    report_data: bytes
    """Up to 64 bytes; a shorter value is padded with zeros at its end."""

    state: State = State.UP_TO_DATE
    debug: bool = False
    """A debug enclave, whatever the state."""

    signer: bytes = SIGNER
    """SGX only, 32 bytes: MRSIGNER."""

    product_id: int = 0
    svn: int = 0
    """SGX: ISVPRODID and ISVSVN; SNP: the guest SVN."""

    config_id: bytes = b""
    """SGX CONFIGID (64 bytes), TDX MRCONFIGID (48), SNP HOST_DATA (32); padded with zeros."""

    def __post_init__(self) -> None:
        states = EXPECTATIONS.get(self.kind)
        if states is None:
            raise EvidenceError(
                f"unknown kind of evidence: got {self.kind[:40]!r}, expected one of {', '.join(EXPECTATIONS)}"
            )
        if self.state not in states:
            raise EvidenceError(
                f"{self.kind} evidence has no state {self.state.value!r}; it has {', '.join(states)}"
            )
        expected = MEASUREMENT_BYTES[self.kind]
        if len(self.measurement) != expected:
            raise EvidenceError(
                f"a measurement of {self.kind} has {expected} bytes: got {len(self.measurement)}"
            )
        if len(self.report_data) > REPORT_DATA_BYTES:
            raise EvidenceError(
                f"report data has at most {REPORT_DATA_BYTES} bytes: got {len(self.report_data)}"
            )
        most = {"sgx": 64, "tdx": 48, "snp": 32, "nitro": 0}[self.kind]
        if len(self.config_id) > most:
            raise EvidenceError(
                f"a configuration id of {self.kind} has at most {most} bytes: got {len(self.config_id)}"
            )
        if len(self.signer) != len(SIGNER):
            raise EvidenceError(f"a signer has {len(SIGNER)} bytes: got {len(self.signer)}")
        for name, number in (("product id", self.product_id), ("security version", self.svn)):
            if not 0 <= number <= 0xFFFF:
                raise EvidenceError(f"a {name} is a number of 0 to 65535: got {number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """Evidence, and the collateral that it is judged by."""

    evidence: Evidence
    collateral: Collateral


class SimulatedVendors:
    """Every vendor, under one seed. See the module."""

    def __init__(self, seed: bytes = DEFAULT_SEED) -> None:
        """``seed``: 32 bytes.

        Raises:
            ValueError: another length.
        """
        self._seed = Seed(seed)
        self._intel = IntelSimulator(seed)

    def issue(self, request: EvidenceRequest, now: datetime) -> Issued:
        """Make evidence and its collateral, as of a time (with a zone)."""
        request = replace(request, report_data=request.report_data.ljust(REPORT_DATA_BYTES, b"\0"))
        makers: Mapping[str, Callable[[EvidenceRequest, datetime], Issued]] = {
            "sgx": self._issue_sgx,
            "tdx": self._issue_tdx,
            "snp": self._issue_snp,
            "nitro": self._issue_nitro,
        }
        return makers[request.kind](request, now)

    def collateral(self, kind: str, now: datetime, *, state: State = State.UP_TO_DATE) -> Collateral:
        """The collateral alone, as a verifier would fetch it.

        Raises:
            EvidenceError: no such kind or state.
        """
        if state not in EXPECTATIONS.get(kind, {}):
            raise EvidenceError(f"no collateral of kind {kind[:40]!r} in the state {state.value!r}")
        match kind:
            case "sgx" | "tdx" as dcap:
                return self._dcap(dcap, now, state)
            case "snp":
                return self._snp_collateral(now, state)
        return NO_COLLATERAL

    def root(self, kind: str) -> bytes:
        """DER of the root certificate that a kind of evidence ends in.

        Raises:
            EvidenceError: no such kind.
        """
        match kind:
            case "sgx" | "tdx":
                return self._intel.root_der
            case "snp":
                return self._amd(State.UP_TO_DATE).ark
            case "nitro":
                return self._nitro(State.UP_TO_DATE).cabundle[0]
        raise EvidenceError(f"unknown kind of evidence: got {kind[:40]!r}")

    def root_sha256(self, kind: str) -> str:
        """Lower-case hex over :meth:`root`: for a policy that accepts a simulator of one's own."""
        return hashlib.sha256(self.root(kind)).hexdigest()

    # -- Intel

    def _dcap(self, kind: Kind, now: datetime, state: State) -> Collateral:
        return Collateral(dcap=(self._intel.collateral(kind, validity_at(now), state=state),))

    def _issue_sgx(self, request: EvidenceRequest, now: datetime) -> Issued:
        report = SgxReport(
            mrenclave=request.measurement,
            mrsigner=request.signer,
            isv_prod_id=request.product_id,
            isv_svn=request.svn,
            config_id=request.config_id.ljust(64, b"\0"),
            report_data=request.report_data,
        )
        quote = self._intel.sgx_quote(report.with_debug() if request.debug else report, state=request.state)
        return _issued(request, quote, self._dcap("sgx", now, request.state))

    def _issue_tdx(self, request: EvidenceRequest, now: datetime) -> Issued:
        report = TdReport(
            mrtd=request.measurement,
            mrconfigid=request.config_id.ljust(48, b"\0"),
            report_data=request.report_data,
        )
        quote = self._intel.tdx_quote(report.with_debug() if request.debug else report, state=request.state)
        return _issued(request, quote, self._dcap("tdx", now, request.state))

    # -- AMD

    def _amd(self, state: State) -> SimulatedAmd:
        from avalon_core.attestation.snp.products import Product
        from avalon_core.simulator.snp import SimulatedAmd

        return SimulatedAmd(Product.GENOA, self._seed_for(state))

    def _issue_snp(self, request: EvidenceRequest, now: datetime) -> Issued:
        from avalon_core.simulator.snp import ReportFields

        amd = self._amd(request.state)
        debug = request.debug or request.state is State.DEBUG
        old = {name: max(svn - _SNP_OLD, 0) for name, svn in amd.default_tcb.items()}
        issued = amd.issue(
            ReportFields(
                version=3,
                guest_svn=request.svn,
                policy=_SNP_POLICY | (_SNP_POLICY_DEBUG if debug else 0),
                measurement=request.measurement,
                host_data=request.config_id.ljust(32, b"\0"),
                report_data=_report_data(request),
                reported_tcb=old if request.state is State.OUT_OF_DATE else None,
            )
        )
        report = issued.report
        if request.state is State.WRONG_SIGNATURE:
            report = _with_changed_byte(report, _SNP_SIGNATURE)
        return _issued(
            request, report, self._snp_collateral(now, request.state), certificates=issued.certificates
        )

    def _snp_collateral(self, now: datetime, state: State) -> Collateral:
        amd = self._amd(state)
        validity = validity_at(now)
        moved = {State.EXPIRED_COLLATERAL: -31 * _DAY, State.FUTURE_COLLATERAL: 3 * _DAY}.get(state, 0 * _DAY)
        crl = amd.crl(
            last_update=validity.issued + moved,
            next_update=validity.next_update + moved,
            revoked=(amd.ask,) if state is State.REVOKED_CERTIFICATE else (),
        )
        return Collateral(snp=(SnpCollateral(certificates=(amd.ask, amd.ark), crl=crl),))

    # -- AWS

    def _nitro(self, state: State) -> NitroPki:
        from avalon_core.simulator.nitro import NitroPki

        return NitroPki(self._seed_for(state))

    def _issue_nitro(self, request: EvidenceRequest, now: datetime) -> Issued:
        from avalon_core.simulator.nitro import NitroRequest, enclave_pcrs

        ages = {State.STALE: _STALE, State.EXPIRED_CERTIFICATE: _EXPIRED}
        issued_at = now.astimezone(UTC) - ages.get(request.state, timedelta(0))
        debug = request.debug or request.state is State.DEBUG
        pcrs = enclave_pcrs(image=request.measurement.hex(), debug=debug)
        if not debug:
            pcrs[0] = request.measurement
        document = self._nitro(request.state).issue(
            NitroRequest(
                timestamp_ms=int(issued_at.timestamp() * 1000), pcrs=pcrs, user_data=_report_data(request)
            )
        )
        if request.state is State.WRONG_SIGNATURE:
            document = _with_changed_byte(document, len(document) - 1)
        return _issued(request, document, NO_COLLATERAL)

    def _seed_for(self, state: State) -> Seed:
        """Ours, or that of a vendor whom nobody knows."""
        return Seed(self._seed.derive("somebody else", 32)) if state is State.UNKNOWN_ROOT else self._seed


_SNP_SIGNATURE = 672
"""Where the signature of a report begins."""


def _issued(
    request: EvidenceRequest,
    document: bytes,
    collateral: Collateral,
    *,
    certificates: tuple[bytes, ...] = (),
) -> Issued:
    evidence = Evidence(format=EVIDENCE_FORMATS[request.kind], document=document, certificates=certificates)
    return Issued(evidence=evidence, collateral=collateral)


def _report_data(request: EvidenceRequest) -> bytes:
    if request.state is State.WRONG_REPORT_DATA:
        return _with_changed_byte(request.report_data, 0)
    return request.report_data


def _with_changed_byte(data: bytes, place: int) -> bytes:
    return data[:place] + bytes((data[place] ^ 0xFF,)) + data[place + 1 :]
