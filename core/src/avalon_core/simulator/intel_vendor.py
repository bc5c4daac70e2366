"""The simulated Intel and its machines: authorities, a platform for every state, and the platforms' quoting enclaves.

SIMULATED. Everything comes from the seed and is made when it is first asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import Literal

from avalon_core.attestation.claims import TcbStatus
from avalon_core.simulator import intel_certificates as pki
from avalon_core.simulator import intel_tcb, quotes
from avalon_core.simulator.intel_certificates import Authority, PckCa
from avalon_core.simulator.intel_tcb import Kind
from avalon_core.simulator.quotes import QuoteSigning, SgxReport
from avalon_core.simulator.seeds import Seed
from avalon_core.simulator.sgx_extension import PckPlatform
from avalon_core.simulator.states import State

CertificationType = Literal[1, 2, 3, 5]
"""How a quote names its platform: 5 carries the PCK chain; 1 the PPID, 2 and 3 the PPID encrypted for the vendor."""

_QE_AUTH_DATA = bytes(range(32))
"""What Intel's own quoting enclave puts there."""

_PPID_BYTES: Mapping[int, int] = MappingProxyType({1: 16, 2: 256, 3: 384})
"""Plain; RSA-2048; RSA-3072."""

_PLATFORM_STATUS: Mapping[State, TcbStatus] = {
    State.SW_HARDENING_NEEDED: TcbStatus.SW_HARDENING_NEEDED,
    State.CONFIGURATION_NEEDED: TcbStatus.CONFIGURATION_NEEDED,
    State.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    State.OUT_OF_DATE: TcbStatus.OUT_OF_DATE,
    State.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    State.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: TcbStatus.CONFIGURATION_NEEDED,
    State.REVOKED: TcbStatus.REVOKED,
}
"""The level of the ladder that a state's platform stands on; the highest where nothing is said."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A platform."""

    platform: PckPlatform
    microcode: int
    pck: Authority
    ca: Authority


class IntelVendor:
    """See the module."""

    def __init__(self, seed: Seed) -> None:
        self._seed = seed
        self.machine = cache(self._make_machine)
        """The platform of a state, by the state and the CA that certifies it."""

    @cached_property
    def root(self) -> Authority:
        """The root CA."""
        return pki.issue_root(self._seed)

    @cached_property
    def tcb_signing(self) -> Authority:
        """Signs TCB info and QE identities."""
        return pki.issue_tcb_signing(self._seed, self.root)

    @cached_property
    def pck_cas(self) -> Mapping[PckCa, Authority]:
        """The authorities that certify platforms."""
        names: tuple[PckCa, ...] = ("platform", "processor")
        return {name: pki.issue_pck_ca(self._seed, self.root, name) for name in names}

    @property
    def user_data(self) -> bytes:
        """20 bytes of a quote's header, of which the first 16 name the quoting enclave of a machine."""
        return self._seed.derive("qe id", 16).ljust(20, b"\0")

    @property
    def mrseam(self) -> bytes:
        """48 bytes: the measurement of the TDX module."""
        return self._seed.derive("tdx module", 48)

    def qe_signer(self, kind: Kind) -> bytes:
        """32 bytes: MRSIGNER of the quoting enclave."""
        return self._seed.derive(f"qe signer {kind}", 32)

    def sign_collateral(self, text: str) -> bytes:
        """64 bytes over a raw text."""
        return pki.sign_raw(self.tcb_signing.key, text.encode())

    def chain(self, machine: Machine) -> str:
        """PEM of a machine's certificates, leaf first."""
        return pki.pem_chain(machine.pck, machine.ca, self.root)

    def quoting(
        self, kind: Kind, machine: Machine, state: State, certification: CertificationType
    ) -> QuoteSigning:
        """What the quoting enclave of a machine adds to a report."""
        key = self._seed.key(f"intel attestation {kind}")
        public = pki.raw_public_key(key)
        bound = broken(public) if state is State.WRONG_KEY_BINDING else public
        signer = self.qe_signer(kind)
        qe_report = SgxReport(
            mrenclave=self._seed.derive(f"qe {kind}", 32),
            mrsigner=broken(signer) if state is State.WRONG_QE else signer,
            isv_prod_id=intel_tcb.QE_PRODUCT[kind],
            isv_svn=qe_svn(state),
            cpusvn=machine.platform.cpusvn,
            # INIT, MODE64BIT and PROVISIONKEY, as a quoting enclave has them.
            attributes=bytes.fromhex("1500000000000000e700000000000000"),
            report_data=hashlib.sha256(bound + _QE_AUTH_DATA).digest().ljust(64, b"\0"),
        ).encode()
        signature = pki.sign_raw(machine.pck.key, qe_report)

        def sign(signed: bytes) -> bytes:
            good = pki.sign_raw(key, signed)
            return broken(good) if state is State.WRONG_SIGNATURE else good

        return QuoteSigning(
            attestation_key=public,
            sign=sign,
            qe_report=qe_report,
            qe_report_signature=broken(signature) if state is State.WRONG_QE_SIGNATURE else signature,
            qe_auth_data=_QE_AUTH_DATA,
            certification_type=certification,
            certification=self._certification(machine, certification),
        )

    def _make_machine(self, state: State, ca: PckCa) -> Machine:
        microcode = intel_tcb.microcode_of(_PLATFORM_STATUS.get(state, TcbStatus.UP_TO_DATE))
        if state is State.NO_TCB_LEVEL:
            microcode = intel_tcb.NO_LEVEL_MICROCODE
        # States that differ in nothing of the machine share one, so that they share a certificate.
        own = state in (State.REVOKED_CERTIFICATE, State.EXPIRED_CERTIFICATE)
        label = f"{ca} {microcode}" + (f" {state}" if own else "")
        platform = PckPlatform(
            ppid=self._seed.derive(f"ppid {label}", 16),
            components=intel_tcb.sgx_components(microcode),
            pcesvn=intel_tcb.PCESVN,
            pceid=intel_tcb.PCEID,
            fmspc=intel_tcb.FMSPC,
            sgx_type=1 if ca == "platform" else 0,
            platform_instance_id=(self._seed.derive(f"instance {label}", 16) if ca == "platform" else None),
        )
        issuer = self.pck_cas[ca]
        valid_to = pki.EXPIRED_TO if state is State.EXPIRED_CERTIFICATE else pki.VALID_TO
        pck = pki.issue_pck(self._seed, issuer, platform, label=label, valid_to=valid_to)
        return Machine(platform, microcode, pck, issuer)

    def _certification(self, machine: Machine, certification: CertificationType) -> bytes:
        if certification == quotes.PCK_CHAIN:
            # With the zero at the end that quoting libraries leave there.
            return self.chain(machine).encode() + b"\0"
        platform = machine.platform
        # Nobody has the key that the PPID would be encrypted under, so any bytes are as good as its ciphertext.
        ppid = (
            platform.ppid
            if certification == 1
            else self._seed.derive(f"encrypted {platform.ppid.hex()}", _PPID_BYTES[certification])
        )
        return ppid + platform.cpusvn + platform.pcesvn.to_bytes(2, "little") + platform.pceid


def qe_svn(state: State) -> int:
    """ISVSVN of the quoting enclave in a state."""
    return intel_tcb.QE_SVN_OLD if state is State.OUTDATED_QE else intel_tcb.QE_SVN


def broken(data: bytes) -> bytes:
    """The same with its first byte changed."""
    return bytes((data[0] ^ 0xFF,)) + data[1:]
