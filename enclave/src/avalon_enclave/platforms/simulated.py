"""The simulated platform: SIMULATED. No hardware; it protects nothing from the operator of this machine.

Everything around it is real: its evidence are SGX or TDX quotes, byte for byte as machines make them, signed by the
quoting process of this machine under a vendor's root of the simulator's own. The ordinary verification judges them, and
a policy has to accept that root by name. The measurement is a hash over the installed code
(:mod:`avalon_enclave.measurement`); keys are sealed as :mod:`avalon_enclave.platforms.simulated_sealing` says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from avalon_core.attestation import proof_data
from avalon_core.attestation.bundles import collateral_from_object
from avalon_core.attestation.evidence import Evidence
from avalon_core.channel.quoting import QuoteRequest
from avalon_core.errors import EvidenceError
from avalon_enclave.errors import StartRefused
from avalon_enclave.measurement import Hash, measure
from avalon_enclave.platforms.quoting_client import ask_for_quote
from avalon_enclave.platforms.simulated_sealing import SimulatedSealing

Kind = Literal["sgx", "tdx"]
KINDS: tuple[Kind, ...] = ("sgx", "tdx")
"""Of TEEs that can be imitated here."""

_HASHES: Mapping[Kind, Hash] = {"sgx": "sha256", "tdx": "sha384"}


class SimulatedTee:
    """See the module. Satisfies :class:`avalon_enclave.platforms.base.Platform`."""

    name = "simulated"
    simulated = True

    def __init__(
        self,
        *,
        role: str,
        quoting_socket: Path | None,
        kind: Kind = "sgx",
        state_path: Path | None = None,
        configuration: Mapping[str, str] | None = None,
    ) -> None:
        """A platform for one enclave.

        Args:
            role: what the enclave is.
            quoting_socket: where the quoting process listens; needed for evidence only.
            kind: of the TEE to imitate.
            state_path: the file of the sealing seed; needed for sealing only.
            configuration: what else the enclave is told at launch that changes what it does; it is measured.
        """
        self._kind: Kind = kind
        self._quoting_socket = quoting_socket
        self._sealing = SimulatedSealing(role=role, state_path=state_path)
        self._measurement = measure(role, configuration, algorithm=_HASHES[kind])

    def measurement(self) -> str:
        return self._measurement

    def issue_evidence(self, report_data: bytes) -> tuple[str, Any]:
        if self._quoting_socket is None:
            raise StartRefused(
                "the simulated platform needs a quoting process for its evidence: give --quoting-socket PATH"
            )
        quote = ask_for_quote(
            self._quoting_socket,
            QuoteRequest(
                kind=self._kind,
                measurement=bytes.fromhex(self._measurement),
                report_data=report_data,
            ),
        )
        try:
            evidence = Evidence(format=quote.format, document=quote.document, certificates=quote.certificates)
            collateral = collateral_from_object(msgspec.json.decode(quote.collateral))
            return proof_data.encode(evidence, collateral)
        except (EvidenceError, msgspec.DecodeError) as exc:
            raise StartRefused(
                f"--quoting-socket: what {self._quoting_socket} answered is no evidence: {exc}"
            ) from exc

    def seal(self, secret: bytes) -> bytes:
        return self._sealing.seal(secret)

    def unseal(self, sealed: bytes) -> bytes:
        return self._sealing.unseal(sealed)
