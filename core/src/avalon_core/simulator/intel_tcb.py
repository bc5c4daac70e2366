"""What Intel says of platforms and quoting enclaves, SIMULATED: TCB info and QE identity, as the raw texts it signs.

The levels form a ladder: a platform of each microcode version stands on the level of one status, so that a state is
chosen by the platform alone and one TCB info serves all. As with the vendor, the first level that a platform reaches
counts.

Source: Intel PCS API v4, TCB info V3 and enclave identity V2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from avalon_core.attestation.claims import TcbStatus

Kind = Literal["sgx", "tdx"]

FMSPC = bytes.fromhex("53494d000000")
"""``SIM``: the family, model and stepping of no processor."""

PCEID = bytes(2)
PCESVN = 13
PCESVN_OLD = 11

CURRENT_EVALUATION = 18
"""tcbEvaluationDataNumber of fresh collateral."""

STALE_EVALUATION = 12

QE_PRODUCT: Mapping[Kind, int] = {"sgx": 1, "tdx": 2}
QE_SVN = 8
QE_SVN_OLD = 6

TDX_MODULE_MAJOR = 1
TDX_MODULE_SVN = 5
TDX_MODULE_SVN_OLD = 3

NO_LEVEL_MICROCODE = 3
"""Older than every level."""

_COMPONENTS = 16
_SGX_REST = (2, 2, 255, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0)
"""Components 3 to 16; the first two are microcode."""

_CATEGORIES: Mapping[int, Mapping[str, str]] = {
    0: {"category": "BIOS", "type": "Early Microcode Update"},
    1: {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
    2: {"category": "OS/VMM", "type": "TXT SINIT"},
    3: {"category": "BIOS"},
    4: {"category": "BIOS"},
    5: {"category": "BIOS"},
    7: {"category": "OS/VMM", "type": "SEAMLDR ACM"},
}
_TDX_CATEGORIES: Mapping[int, Mapping[str, str]] = {
    0: {"category": "OS/VMM", "type": "TDX Module"},
    1: {"category": "OS/VMM", "type": "TDX Module"},
    2: {"category": "OS/VMM", "type": "TDX Late Microcode Update"},
}
_NO_CATEGORIES: Mapping[int, Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One rung of the ladder."""

    status: TcbStatus
    microcode: int
    date: str
    """The day of the TCB recovery event, midnight UTC."""

    pcesvn: int = PCESVN
    advisories: Sequence[str] = field(default_factory=tuple)


LADDER: Sequence[Level] = (
    Level(status=TcbStatus.UP_TO_DATE, microcode=10, date="2025-08-13"),
    Level(
        status=TcbStatus.SW_HARDENING_NEEDED,
        microcode=9,
        date="2025-08-13",
        advisories=("INTEL-SA-00334", "INTEL-SA-00615"),
    ),
    Level(
        status=TcbStatus.CONFIGURATION_NEEDED, microcode=8, date="2025-08-13", advisories=("INTEL-SA-00219",)
    ),
    Level(
        status=TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        microcode=7,
        date="2025-08-13",
        advisories=("INTEL-SA-00289", "INTEL-SA-00615"),
    ),
    Level(
        status=TcbStatus.OUT_OF_DATE,
        microcode=6,
        date="2023-08-09",
        advisories=("INTEL-SA-00828", "INTEL-SA-00837"),
    ),
    Level(
        status=TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        microcode=5,
        date="2023-08-09",
        pcesvn=PCESVN_OLD,
        advisories=("INTEL-SA-00289", "INTEL-SA-00828", "INTEL-SA-00837"),
    ),
    Level(
        status=TcbStatus.REVOKED,
        microcode=4,
        date="2018-01-04",
        pcesvn=PCESVN_OLD,
        advisories=("INTEL-SA-00161",),
    ),
)
"""Highest first, as in real TCB info. The advisories are Intel's names; no claim is made about any real platform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when to when collateral speaks. Times with a zone, whole seconds."""

    issued: datetime
    next_update: datetime

    def __post_init__(self) -> None:
        if self.issued.tzinfo is None or self.next_update.tzinfo is None:
            raise ValueError("a validity needs times with a zone")
        if self.next_update <= self.issued:
            raise ValueError(f"collateral cannot end at {self.next_update} if it begins at {self.issued}")


LIFETIME = timedelta(days=30)
"""Of TCB info and QE identities, as with the vendor."""


def validity_at(now: datetime) -> Validity:
    """The validity of collateral that is fetched now: issued yesterday at midnight, so all of a day gets equal bytes.

    Verifiers whose clock is behind by less than a day accept it too.
    """
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    issued = midnight - timedelta(days=1)
    return Validity(issued=issued, next_update=issued + LIFETIME)


def sgx_components(microcode: int) -> tuple[int, ...]:
    """CPUSVN of a platform with this microcode: 16 numbers."""
    return (microcode, microcode, *_SGX_REST)


def tee_tcb_svn(microcode: int, *, module: int = TDX_MODULE_SVN) -> bytes:
    """TEE_TCB_SVN of a domain on a platform with this microcode and TDX module: 16 bytes."""
    return bytes((module, TDX_MODULE_MAJOR, microcode)).ljust(_COMPONENTS, b"\0")


def microcode_of(status: TcbStatus) -> int:
    """The microcode that stands on the level of a status."""
    return next(level.microcode for level in LADDER if level.status is status)


def tcb_info(kind: Kind, validity: Validity, *, evaluation: int = CURRENT_EVALUATION) -> str:
    """The raw JSON text of the ``tcbInfo`` member."""
    tdx: dict[str, Any] = {}
    if kind == "tdx":
        module = {"mrsigner": bytes(48).hex(), "attributes": bytes(8).hex(), "attributesMask": "FF" * 8}
        levels = [
            _level({"isvsvn": TDX_MODULE_SVN}, "2025-08-13", TcbStatus.UP_TO_DATE),
            _level({"isvsvn": TDX_MODULE_SVN_OLD}, "2023-08-09", TcbStatus.OUT_OF_DATE, ("INTEL-SA-01036",)),
        ]
        identity = {"id": f"TDX_{TDX_MODULE_MAJOR:02}", **module, "tcbLevels": levels}
        tdx = {"tdxModule": module, "tdxModuleIdentities": [identity]}
    return _text(
        {
            "id": kind.upper(),
            "version": 3,
            **_dates(validity),
            "fmspc": FMSPC.hex().upper(),
            "pceId": PCEID.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": evaluation,
            **tdx,
            "tcbLevels": [
                _level(_tcb(kind, rung), rung.date, rung.status, rung.advisories) for rung in LADDER
            ],
        }
    )


def qe_identity(
    kind: Kind, validity: Validity, *, mrsigner: bytes, evaluation: int = CURRENT_EVALUATION
) -> str:
    """The raw JSON text of the ``enclaveIdentity`` member."""
    return _text(
        {
            "id": "QE" if kind == "sgx" else "TD_QE",
            "version": 2,
            **_dates(validity),
            "tcbEvaluationDataNumber": evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": mrsigner.hex().upper(),
            "isvprodid": QE_PRODUCT[kind],
            "tcbLevels": [
                _level({"isvsvn": QE_SVN}, "2025-08-13", TcbStatus.UP_TO_DATE),
                _level({"isvsvn": QE_SVN_OLD}, "2023-08-09", TcbStatus.OUT_OF_DATE, ("INTEL-SA-00615",)),
            ],
        }
    )


def _tcb(kind: Kind, rung: Level) -> dict[str, Any]:
    sgx = sgx_components(rung.microcode)
    if kind == "sgx":
        return {"sgxtcbcomponents": _components(sgx, _NO_CATEGORIES), "pcesvn": rung.pcesvn}
    # The module's own version is judged by its identity, so the platform's levels ask nothing of it.
    tdx = tee_tcb_svn(rung.microcode, module=0)
    return {
        "sgxtcbcomponents": _components(sgx, _CATEGORIES),
        "pcesvn": rung.pcesvn,
        "tdxtcbcomponents": _components((0, 0, *tdx[2:]), _TDX_CATEGORIES),
    }


def _components(svns: Sequence[int], categories: Mapping[int, Mapping[str, str]]) -> list[dict[str, Any]]:
    return [{"svn": svn, **categories.get(place, {})} for place, svn in enumerate(svns)]


def _level(
    tcb: dict[str, Any], date: str, status: TcbStatus, advisories: Sequence[str] = ()
) -> dict[str, Any]:
    level = {"tcb": tcb, "tcbDate": f"{date}T00:00:00Z", "tcbStatus": status.value}
    # Where there are none the vendor leaves the member out.
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def _dates(validity: Validity) -> dict[str, str]:
    return {
        "issueDate": f"{validity.issued.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "nextUpdate": f"{validity.next_update.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _text(document: dict[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
