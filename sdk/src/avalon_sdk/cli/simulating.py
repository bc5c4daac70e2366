"""``avalon simulator``: SIMULATED evidence in files. Everything it prints says so."""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from avalon_core.attestation.bundles import collateral_to_object
from avalon_core.attestation.collateral import Collateral, SnpCollateral
from avalon_core.errors import EvidenceError
from avalon_core.simulator.roots import SIMULATOR_ROOTS
from avalon_core.simulator.seeds import DEFAULT_SEED, SEED_BYTES, read_seed
from avalon_core.simulator.states import EXPECTATIONS, State
from avalon_core.simulator.vendors import MEASUREMENT_BYTES, EvidenceRequest, Issued, SimulatedVendors
from avalon_sdk.cli.attesting import moment_of
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.output import remark, show, show_json
from avalon_sdk.errors import BadRequest

NOTE = "SIMULATED: no hardware stands behind this evidence; it protects nothing"
PUBLISHED = f"{NOTE}, and anybody can make it: the simulator's seed is published"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteArguments:
    """What ``avalon simulator quote`` is told."""

    kind: str
    state: str
    report_data: str
    measurement: str | None
    debug: bool
    out: Path
    collateral_out: Path | None
    as_of: str | None
    seed_file: Path | None


async def make_quote(arguments: QuoteArguments, *, as_json: bool) -> ExitCode:
    """Make evidence, write it and its collateral, and say what is to be expected of it."""
    request = _request(arguments)
    seed = _seed(arguments.seed_file)
    vendors = SimulatedVendors(seed)
    issued = vendors.issue(request, moment_of(arguments.as_of))
    _write("--out", arguments.out, issued.evidence.document)
    if arguments.collateral_out is not None:
        bundle = collateral_to_object(_with_certificates(issued))
        _write("--collateral-out", arguments.collateral_out, msgspec.json.encode(bundle))
    expected = EXPECTATIONS[request.kind][request.state]
    described = {
        "simulated": True,
        "format": issued.evidence.format,
        "bytes": len(issued.evidence.document),
        "state": request.state.value,
        "description": expected.description,
        "expected": expected.outcome.value,
        "tcb_status": None if expected.tcb_status is None else expected.tcb_status.value,
        "measurement": request.measurement.hex(),
        "report_data": request.report_data.hex(),
        "root_sha256": vendors.root_sha256(request.kind),
    }
    if as_json:
        show_json(described)
        return ExitCode.OK
    remark(PUBLISHED if seed == DEFAULT_SEED else NOTE)
    show(
        f"{issued.evidence.format} evidence of {described['bytes']} bytes in {arguments.out}: {expected.description}"
    )
    status = "" if expected.tcb_status is None else f" (TCB status {expected.tcb_status})"
    show(f"expected: {expected.outcome}{status}")
    return ExitCode.OK


async def list_states(kind: str | None, *, as_json: bool) -> ExitCode:
    """Print every state of one kind of evidence, or of all."""
    kinds = EXPECTATIONS if kind is None else {kind: EXPECTATIONS[kind]}
    if as_json:
        rows = [
            {
                "format": name,
                "state": state.value,
                "description": expected.description,
                "expected": expected.outcome.value,
                "tcb_status": None if expected.tcb_status is None else expected.tcb_status.value,
            }
            for name, states in kinds.items()
            for state, expected in states.items()
        ]
        show_json({"simulated": True, "states": rows})
        return ExitCode.OK
    remark(NOTE)
    for name, states in kinds.items():
        show(name, "bold")
        for state, expected in states.items():
            status = "" if expected.tcb_status is None else f" [{expected.tcb_status}]"
            show(f"  {state.value:40} {expected.description}")
            show(f"  {'':40} {expected.outcome}{status}", "dim")
    return ExitCode.OK


async def show_root(kind: str, seed_file: Path | None, *, as_json: bool) -> ExitCode:
    """Print the root certificate of a kind."""
    seed = _seed(seed_file)
    vendors = SimulatedVendors(seed)
    digest = vendors.root_sha256(kind)
    known = SIMULATOR_ROOTS.find(digest)
    pem = x509.load_der_x509_certificate(vendors.root(kind)).public_bytes(Encoding.PEM).decode()
    name = None if known is None else known.name
    if as_json:
        show_json({"simulated": True, "format": kind, "name": name, "sha256": digest, "pem": pem})
        return ExitCode.OK
    remark(PUBLISHED if seed == DEFAULT_SEED else NOTE)
    remark(f"root {name or '(of this seed alone)'}, SHA-256 {digest}")
    show(pem.rstrip())
    return ExitCode.OK


def _request(arguments: QuoteArguments) -> EvidenceRequest:
    try:
        state = State(arguments.state)
    except ValueError:
        expected = ", ".join(EXPECTATIONS[arguments.kind])
        raise BadRequest(f"--state: got {arguments.state[:40]!r}, expected one of {expected}") from None
    length = MEASUREMENT_BYTES[arguments.kind]
    measurement = (
        _hex("--measurement", arguments.measurement)
        if arguments.measurement is not None
        else (1).to_bytes(length, "big")
    )
    try:
        return EvidenceRequest(
            kind=arguments.kind,
            state=state,
            measurement=measurement,
            report_data=_hex("--report-data", arguments.report_data),
            debug=arguments.debug,
        )
    except EvidenceError as exc:
        raise BadRequest(exc.message) from None


def _hex(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise BadRequest(f"{option}: got {text[:40]!r}, expected pairs of hex digits") from None


def _seed(path: Path | None) -> bytes:
    if path is None:
        return DEFAULT_SEED
    try:
        with path.open("rb") as file:
            content = file.read(4 * SEED_BYTES)
    except OSError as exc:
        raise BadRequest(f"--seed-file: {path} cannot be read ({exc.strerror})") from exc
    try:
        return read_seed(content)
    except ValueError as exc:
        raise BadRequest(f"--seed-file: {path} {exc}") from exc


def _with_certificates(issued: Issued) -> Collateral:
    """The collateral, with the certificates that would travel beside the evidence in a worker record."""
    if not issued.evidence.certificates:
        return issued.collateral
    entries = tuple(
        SnpCollateral(certificates=issued.evidence.certificates, crl=entry.crl)
        for entry in issued.collateral.snp
    )
    return replace(issued.collateral, snp=entries)


def _write(option: str, path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as exc:
        raise BadRequest(f"{option}: cannot write {path} ({exc.strerror})") from exc
