"""What the quoting process answers. SIMULATED. No socket here; the clock is an argument."""

from collections.abc import Callable
from datetime import datetime

import msgspec

from avalon_core.attestation.bundles import collateral_to_object
from avalon_core.attestation.collateral import Collateral
from avalon_core.channel.quoting import (
    Answer,
    CollateralAnswer,
    CollateralRequest,
    Quote,
    QuoteRequest,
    Refused,
    Request,
    Vendor,
)
from avalon_core.errors import EvidenceError
from avalon_core.simulator.seeds import DEFAULT_SEED
from avalon_core.simulator.states import State
from avalon_core.simulator.vendors import EvidenceRequest, SimulatedVendors


class QuotingDesk:
    """Answers requests, each as of its own time: collateral is issued anew every day, weeks before it ends."""

    def __init__(self, seed: bytes, clock: Callable[[], datetime]) -> None:
        """``clock`` gives the time with a zone.

        Raises:
            ValueError: the seed has not 32 bytes.
        """
        self._vendors = SimulatedVendors(seed)
        self._clock = clock
        self.vendor = Vendor(
            root_sha256=self._vendors.root_sha256("sgx"), published_seed=seed == DEFAULT_SEED
        )

    def answer(self, request: Request) -> Answer:
        """The answer to one request."""
        try:
            match request:
                case QuoteRequest():
                    return self._quote(request)
                case CollateralRequest():
                    collateral = self._vendors.collateral(
                        request.kind, self._clock(), state=_state(request.state)
                    )
                    return CollateralAnswer(collateral=_bundle(collateral))
            return self.vendor
        except EvidenceError as exc:
            return Refused(message=exc.message)

    def _quote(self, request: QuoteRequest) -> Quote:
        issued = self._vendors.issue(
            EvidenceRequest(
                kind=request.kind,
                measurement=request.measurement,
                report_data=request.report_data,
                state=_state(request.state),
                debug=request.debug,
                product_id=request.product_id,
                svn=request.svn,
                config_id=request.config_id,
            ),
            self._clock(),
        )
        return Quote(
            format=issued.evidence.format,
            document=issued.evidence.document,
            certificates=issued.evidence.certificates,
            collateral=_bundle(issued.collateral),
        )


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise EvidenceError(f"unknown state: got {name[:40]!r}, expected one of {', '.join(State)}") from None


def _bundle(collateral: Collateral) -> bytes:
    return msgspec.json.encode(collateral_to_object(collateral))
