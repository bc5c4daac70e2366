"""A simulator of Intel's DCAP: SIMULATED platforms, quoting enclaves, quotes and collateral under one seed.

    simulator = IntelSimulator()
    quote = simulator.sgx_quote(SgxReport(mrenclave=..., report_data=...), state=State.OUT_OF_DATE)
    collateral = simulator.collateral("sgx", validity_at(now))

The quotes are accepted by an ordinary verifier that is given the root of this simulator, and by no other. One set of
collateral serves all states but those that are about collateral themselves.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Literal

from avalon_core.attestation.collateral import DcapCollateral
from avalon_core.simulator import intel_certificates as pki
from avalon_core.simulator import intel_tcb, quotes
from avalon_core.simulator.intel_certificates import PckCa
from avalon_core.simulator.intel_tcb import Kind, Validity
from avalon_core.simulator.intel_vendor import CertificationType, IntelVendor, broken, qe_svn
from avalon_core.simulator.quotes import SgxReport, TdReport
from avalon_core.simulator.seeds import DEFAULT_SEED, Seed
from avalon_core.simulator.sgx_extension import PckPlatform
from avalon_core.simulator.states import EXPECTATIONS, State

_RELAUNCH = (State.TD_RELAUNCH_ADVISED, State.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED)


class IntelSimulator:
    """A vendor, and one machine of it for every state. See the module."""

    def __init__(self, seed: bytes = DEFAULT_SEED) -> None:
        """``seed``: 32 bytes.

        Raises:
            ValueError: another length.
        """
        self._seed = Seed(seed)
        self._vendor = IntelVendor(self._seed)

    @property
    def root_der(self) -> bytes:
        """The root certificate: what a verifier has to be given."""
        return self._vendor.root.der

    @property
    def root_sha256(self) -> str:
        """Lower-case hex over :attr:`root_der`: how a trust anchor names it."""
        return hashlib.sha256(self.root_der).hexdigest()

    def sgx_quote(
        self,
        report: SgxReport,
        *,
        state: State = State.UP_TO_DATE,
        certification: CertificationType = 5,
        ca: PckCa = "platform",
    ) -> bytes:
        """An SGX quote of version 3 over a report, whose CPUSVN the machine puts in.

        Args:
            report: of the enclave.
            state: what is to be the case.
            certification: how the quote names its platform.
            ca: which certifies the platform.

        Raises:
            ValueError: a field of the report has a wrong length, or SGX knows no such state.
        """
        _check(state, "sgx")
        if state is State.UNKNOWN_ROOT:
            return self._somebody_else.sgx_quote(report, certification=certification, ca=ca)
        machine = self._vendor.machine(state, ca)
        report = replace(
            report, cpusvn=machine.platform.cpusvn, report_data=_report_data(report.report_data, state)
        )
        if state is State.DEBUG:
            report = report.with_debug()
        return quotes.encode_sgx_quote(
            report.encode(),
            self._vendor.quoting("sgx", machine, state, certification),
            qe_svn=qe_svn(state),
            pce_svn=machine.platform.pcesvn,
            user_data=self._vendor.user_data,
        )

    def tdx_quote(
        self,
        report: TdReport,
        *,
        state: State = State.UP_TO_DATE,
        version: Literal[4, 5] = 4,
        ca: PckCa = "platform",
    ) -> bytes:
        """A TDX quote over a report, into which the machine puts its versions and its TDX module.

        Args:
            report: of the domain.
            state: what is to be the case. An advised relaunch takes version 5: only a report of TDX 1.5 tells it.
            version: of the quote. 5 carries a report of TDX 1.5.
            ca: which certifies the platform.

        Raises:
            ValueError: a field of the report has a wrong length.
        """
        _check(state, "tdx")
        if state is State.UNKNOWN_ROOT:
            return self._somebody_else.tdx_quote(report, version=version, ca=ca)
        machine = self._vendor.machine(state, ca)
        relaunch = state in _RELAUNCH
        module = intel_tcb.TDX_MODULE_SVN_OLD if relaunch else intel_tcb.TDX_MODULE_SVN
        report = replace(
            report,
            tee_tcb_svn=intel_tcb.tee_tcb_svn(machine.microcode, module=module),
            tee_tcb_svn2=intel_tcb.tee_tcb_svn(machine.microcode),
            mrseam=self._vendor.mrseam,
            report_data=_report_data(report.report_data, state),
        )
        if state is State.DEBUG:
            report = report.with_debug()
        body = quotes.BODY_TD_15 if relaunch or version == 5 else quotes.BODY_TD_10
        return quotes.encode_tdx_quote(
            report.encode(body),
            self._vendor.quoting("tdx", machine, state, quotes.PCK_CHAIN),
            version=5 if relaunch else version,
            body=body,
            user_data=self._vendor.user_data,
        )

    def collateral(
        self,
        kind: Kind,
        validity: Validity,
        *,
        state: State = State.UP_TO_DATE,
        ca: PckCa = "platform",
        pck_chain: bool = False,
    ) -> DcapCollateral:
        """The vendor's collateral of these machines.

        Args:
            kind: ``sgx`` or ``tdx``.
            validity: from when to when. The states that are about time move it, by whole days.
            state: what is to be the case.
            ca: which certifies the platform.
            pck_chain: add the chain of the state's platform, for quotes that do not carry it. A verifier may
                prefer it to the quote's own, so it is left out otherwise.

        Raises:
            ValueError: this kind knows no such state.
        """
        _check(state, kind)
        if state is State.UNKNOWN_ROOT:
            return self._somebody_else.collateral(kind, validity, ca=ca, pck_chain=pck_chain)
        vendor = self._vendor
        validity = _moved(validity, state)
        evaluation = intel_tcb.STALE_EVALUATION if state is State.STALE else intel_tcb.CURRENT_EVALUATION
        tcb_info = intel_tcb.tcb_info(kind, validity, evaluation=evaluation)
        identity = intel_tcb.qe_identity(
            kind, validity, mrsigner=vendor.qe_signer(kind), evaluation=evaluation
        )
        signature = vendor.sign_collateral(tcb_info)
        signing_chain = pki.pem_chain(vendor.tcb_signing, vendor.root)
        issuer = vendor.pck_cas[ca]
        # The withdrawn platform is on every CRL, so one CRL serves all states.
        revoked = vendor.machine(State.REVOKED_CERTIFICATE, ca).pck.certificate.serial_number
        until = {"issued": validity.issued, "next_update": validity.next_update}
        return DcapCollateral(
            pck_crl_issuer_chain=pki.pem_chain(issuer, vendor.root),
            root_ca_crl=pki.issue_crl(vendor.root, (), **until).hex(),
            pck_crl=pki.issue_crl(issuer, (revoked,), **until).hex(),
            tcb_info_issuer_chain=signing_chain,
            tcb_info=tcb_info,
            tcb_info_signature=(broken(signature) if state is State.WRONG_TCB_SIGNATURE else signature).hex(),
            qe_identity_issuer_chain=signing_chain,
            qe_identity=identity,
            qe_identity_signature=vendor.sign_collateral(identity).hex(),
            pck_certificate_chain=vendor.chain(vendor.machine(state, ca)) if pck_chain else None,
        )

    def platform(self, state: State = State.UP_TO_DATE, *, ca: PckCa = "platform") -> PckPlatform:
        """The machine of a state, as its certificate describes it."""
        return self._vendor.machine(state, ca).platform

    @cached_property
    def _somebody_else(self) -> IntelSimulator:
        """A vendor whom nobody knows."""
        return IntelSimulator(self._seed.derive("somebody else", 32))


def _check(state: State, kind: Kind) -> None:
    if state not in EXPECTATIONS[kind]:
        raise ValueError(f"{kind} evidence has no state {state.value!r}")


def _report_data(wanted: bytes, state: State) -> bytes:
    return broken(wanted) if state is State.WRONG_REPORT_DATA else wanted


def _moved(validity: Validity, state: State) -> Validity:
    lifetime = validity.next_update - validity.issued
    if state is State.EXPIRED_COLLATERAL:
        return Validity(issued=validity.issued - lifetime, next_update=validity.issued)
    later = validity.issued + timedelta(days=3)
    if state is State.FUTURE_COLLATERAL:
        return Validity(issued=later, next_update=later + lifetime)
    if state is State.STALE:
        return Validity(issued=later - lifetime, next_update=later)
    return validity
