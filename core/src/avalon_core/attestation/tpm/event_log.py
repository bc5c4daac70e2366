"""Event logs: what firmware, boot loader and operating system say that they extended the PCRs with.

Three encodings are read, told apart by their first bytes:

- the *crypto-agile* log of UEFI firmware on a TPM 2.0: TCG PC Client Platform Firmware Profile (PFP), revision 1.05,
  clauses 10.2.1 (events), 10.2.2 and 10.4.5.1 (the Spec ID event, which lists the banks). Little-endian;
- the older *SHA-1* log, of TCG_PCClientPCREvent records only: the same profile, clause 10.2.1;
- the *canonical event log* in TLV: TCG Canonical Event Log Format, revision 1.0, clause 5 (CEL-TLV). Big-endian.

A log is a claim. Only what replays to quoted PCRs counts, and of an event only its digest and its place among the
events of the same PCR: neither its type nor its data is in the PCR. See :mod:`avalon_core.attestation.tpm.boot_state`.
"""

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from avalon_core.attestation.evidence import MAX_ATTACHMENT_BYTES
from avalon_core.attestation.tpm.cursor import Cursor
from avalon_core.attestation.tpm.structures import HASH_BYTES, HASH_NAMES, MAX_BANKS, MAX_PCRS
from avalon_core.errors import EvidenceError

EV_NO_ACTION = 0x00000003
EV_SEPARATOR = 0x00000004
EV_IPL = 0x0000000D
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
EV_EFI_ACTION = 0x80000007

MAX_EVENTS = 20_000
"""Firmware and boot loader log some hundreds; the size of the whole allows a CEL of IMA to have more."""

MAX_DIGEST_BYTES = 64
MAX_LOCALITY_EVENTS = 1
_SPEC_ID = b"Spec ID Event03\0"
_SPEC_ID_PREFIX = b"Spec ID Event"
_STARTUP_LOCALITY = b"StartupLocality\0"
_LOCALITIES = (0, 3, 4)
"""Of TPM2_Startup; 4 stands for an H-CRTM (PFP, clause 10.4.5.3)."""

_DRTM_PCRS = range(17, 23)
"""All ones after a reset, and zero once a dynamic launch has begun (PC Client Platform TPM Profile, clause 4.6.2)."""

_CEL_START = b"\0" + (8).to_bytes(4, "big") + bytes(8)
"""A CEL's first field: RECNUM, 8 bytes, of record 0. A TCG log that begins so has a first digest of five zero bytes."""

_CEL_RECORD_NUMBER, _CEL_PCR, _CEL_NV_INDEX, _CEL_DIGESTS = 0, 1, 2, 3
_CEL_PCCLIENT_STD = 5
CEL_COS = 80
"""Content that Google's Container-Optimized OS measures; its digest is over the whole TLV of the content."""

_CEL_CC_REGISTER = 108
"""The measurement register of a confidential VM (RTMR), which tools of Google's write where a PCR would stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record of a log."""

    pcr: int | None
    """The PCR that was extended; None where the record is about another register (:attr:`register`)."""

    type: int
    """Event type of the PFP; for a CEL record the type of its content. Nothing proves it."""

    digests: Mapping[str, bytes]
    """By bank: what the PCR was extended with."""

    data: bytes
    """Event data; of a CEL record the content. Proved only where a digest is taken over it."""

    register: str = ""
    """``cc4`` or ``nv01c10000`` where it is no PCR."""

    is_firmware: bool = True
    """The type is one of the PFP; else it is the type of a CEL record's content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """A parsed log."""

    encoding: str
    """``crypto-agile``, ``sha1`` or ``cel-tlv``."""

    events: Sequence[Event]
    startup_locality: int = 0
    """Of the Startup command, which is PCR 0's first value; see :func:`replay`."""


def parse_event_log(data: bytes) -> EventLog:
    """Parse a log in one of the three encodings.

    Raises:
        EvidenceError: none of them, cut off, or larger than a cap.
    """
    if len(data) > MAX_ATTACHMENT_BYTES:
        raise EvidenceError(
            f"the event log is too large: got {len(data)} bytes, expected at most {MAX_ATTACHMENT_BYTES}"
        )
    if not data:
        raise EvidenceError("the event log is empty")
    if data.startswith(_CEL_START):
        records = tuple(_capped(_read_cel(data)))
        return EventLog(encoding="cel-tlv", events=records, startup_locality=_startup_locality(records))
    return _parse_tcg_log(data)


def replay(
    logs: Sequence[EventLog], bank: str, pcrs: Container[int] = range(MAX_PCRS)
) -> Mapping[int, bytes]:
    """The values that these PCRs of a bank have after all events of these logs, one log after another.

    Extending is new = H(old || digest): TPM Library, Part 1, clause 17.2. PCRs start at zero, PCR 0 with the startup
    locality in its last byte (PFP, clause 10.4.5.3). Events of other registers and EV_NO_ACTION extend nothing.

    Returns:
        By number, only those of which there are events.

    Raises:
        EvidenceError: an event of these PCRs has no digest of this bank.
    """
    values: dict[int, bytes] = {}
    for log in logs:
        for event in extending(log):
            if event.pcr is None or event.pcr not in pcrs:
                continue
            digest = event.digests.get(bank)
            if digest is None:
                raise EvidenceError(
                    f"the event log ({log.encoding}) has no digests for bank {bank}: PCR {event.pcr} cannot be replayed"
                )
            old = values.get(event.pcr, _first_value(event.pcr, bank, log.startup_locality))
            values[event.pcr] = hashlib.new(bank, old + digest).digest()
    return values


def extending(log: EventLog) -> Iterator[Event]:
    """The events that extended a PCR."""
    return (event for event in log.events if event.pcr is not None and not _is_silent(event))


def _is_silent(event: Event) -> bool:
    return event.is_firmware and event.type == EV_NO_ACTION


def value_without_events(pcr: int, bank: str, startup_locality: int = 0) -> bytes:
    """What a PCR holds that nobody extended since the machine's reset."""
    if pcr in _DRTM_PCRS:
        return b"\xff" * HASH_BYTES[bank]
    return _first_value(pcr, bank, startup_locality)


def _first_value(pcr: int, bank: str, startup_locality: int) -> bytes:
    return (startup_locality if pcr == 0 else 0).to_bytes(HASH_BYTES[bank], "big")


def _capped(events: Iterator[Event]) -> Iterator[Event]:
    for count, event in enumerate(events, start=1):
        if count > MAX_EVENTS:
            raise EvidenceError(f"the event log has too many events: expected at most {MAX_EVENTS}")
        yield event


def _parse_tcg_log(data: bytes) -> EventLog:
    cursor = Cursor(data, what="the event log", order="little")
    first = _read_sha1_event(cursor)
    read: Callable[[], Event]
    if first.type == EV_NO_ACTION and first.data.startswith(_SPEC_ID_PREFIX):
        agile = first.data.startswith(_SPEC_ID)
        banks = _read_spec_id(first.data) if agile else {}
        read = (lambda: _read_agile_event(cursor, banks)) if agile else (lambda: _read_sha1_event(cursor))
        events = [Event(pcr=first.pcr, type=first.type, digests={}, data=first.data)]
    else:
        agile = False
        read = lambda: _read_sha1_event(cursor)  # noqa: E731 -- three ways to read the next event, chosen once
        events = [first]

    def rest() -> Iterator[Event]:
        yield from events
        while cursor.left:
            yield read()

    everything = tuple(_capped(rest()))
    return EventLog(
        encoding="crypto-agile" if agile else "sha1",
        events=everything,
        startup_locality=_startup_locality(everything),
    )


def _read_sha1_event(cursor: Cursor) -> Event:
    pcr, kind = _read_pcr(cursor), cursor.number(4)
    digest = cursor.take(HASH_BYTES["sha1"])
    data = cursor.sized(4, most=MAX_ATTACHMENT_BYTES)
    return Event(pcr=pcr, type=kind, digests={"sha1": digest}, data=data)


def _read_agile_event(cursor: Cursor, banks: Mapping[int, int]) -> Event:
    pcr, kind = _read_pcr(cursor), cursor.number(4)
    count = cursor.number(4)
    if count != len(banks):
        raise EvidenceError(
            f"the event log: got {count} digests at offset {cursor.position}, expected {len(banks)}"
        )
    digests: dict[str, bytes] = {}
    for _ in range(count):
        algorithm = cursor.number(2)
        if algorithm not in banks:
            raise EvidenceError(
                f"the event log: a digest of bank {algorithm:#06x}, which its start does not list"
            )
        name = HASH_NAMES.get(algorithm, f"{algorithm:#06x}")
        if name in digests:
            raise EvidenceError(f"the event log: two digests of bank {name} in one event")
        digests[name] = cursor.take(banks[algorithm])
    data = cursor.sized(4, most=MAX_ATTACHMENT_BYTES)
    return Event(pcr=pcr, type=kind, digests=digests, data=data)


def _read_pcr(cursor: Cursor) -> int:
    pcr = cursor.number(4)
    # Events that extend nothing may carry an index of all ones.
    if pcr >= MAX_PCRS and pcr != 0xFFFFFFFF:
        raise EvidenceError(f"the event log: got PCR {pcr}, expected at most {MAX_PCRS - 1}")
    return pcr


def _read_spec_id(data: bytes) -> Mapping[int, int]:
    """The banks of a crypto-agile log: algorithm to bytes of a digest."""
    cursor = Cursor(data, what="the event log's Spec ID event", order="little")
    cursor.take(len(_SPEC_ID) + 8)  # platform class, version, errata, size of pointers: nothing hangs on them
    count = cursor.number(4)
    if not 1 <= count <= MAX_BANKS:
        raise EvidenceError(f"the event log: got {count} banks, expected 1 to {MAX_BANKS}")
    banks: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = cursor.number(2), cursor.number(2)
        name = HASH_NAMES.get(algorithm)
        if algorithm in banks or size > MAX_DIGEST_BYTES or (name is not None and HASH_BYTES[name] != size):
            raise EvidenceError(
                f"the event log: bank {algorithm:#06x} of {size} bytes is none, or is listed twice"
            )
        banks[algorithm] = size
    cursor.sized(1, most=255)
    cursor.end()
    return banks


def _startup_locality(events: Sequence[Event]) -> int:
    found = [
        place
        for place, event in enumerate(events)
        if _is_silent(event) and event.data.startswith(_STARTUP_LOCALITY)
    ]
    if not found:
        return 0
    extended = next(
        (i for i, event in enumerate(events) if not _is_silent(event) and event.pcr == 0), len(events)
    )
    if len(found) > MAX_LOCALITY_EVENTS or found[0] > extended:
        raise EvidenceError("the event log tells the startup locality twice, or after PCR 0 was extended")
    value = events[found[0]].data[len(_STARTUP_LOCALITY) :]
    if len(value) != 1 or value[0] not in _LOCALITIES:
        raise EvidenceError("the event log's startup locality: expected one byte: 0, 3 or 4")
    return value[0]


def _read_cel(data: bytes) -> Iterator[Event]:
    cursor = Cursor(data, what="the canonical event log", order="big")
    number = 0
    while cursor.left:
        record = cursor.number(1), int.from_bytes(cursor.sized(4, most=8), "big")
        if record != (_CEL_RECORD_NUMBER, number):
            raise EvidenceError(
                f"the canonical event log: got field {record[0]} of value {record[1]}, expected record number {number}"
            )
        number += 1
        yield _read_cel_record(cursor)


def _read_cel_record(cursor: Cursor) -> Event:
    kind, index = cursor.number(1), int.from_bytes(cursor.sized(4, most=4), "big")
    names = {_CEL_PCR: "", _CEL_NV_INDEX: f"nv{index:08x}", _CEL_CC_REGISTER: f"cc{index}"}
    if kind not in names:
        raise EvidenceError(f"the canonical event log: got field {kind}, expected the index of a PCR")
    if kind == _CEL_PCR and index >= MAX_PCRS:
        raise EvidenceError(f"the canonical event log: got PCR {index}, expected at most {MAX_PCRS - 1}")
    if (field := cursor.number(1)) != _CEL_DIGESTS:
        raise EvidenceError(f"the canonical event log: got field {field}, expected digests")
    digests = _read_cel_digests(cursor.sized(4, most=MAX_BANKS * (MAX_DIGEST_BYTES + 5)))
    content, value = cursor.number(1), cursor.sized(4, most=MAX_ATTACHMENT_BYTES)
    is_firmware = content == _CEL_PCCLIENT_STD
    if is_firmware:
        content, value = _read_cel_firmware_event(value)
    return Event(
        pcr=index if kind == _CEL_PCR else None,
        type=content,
        digests=digests,
        data=value,
        register=names[kind],
        is_firmware=is_firmware,
    )


def _read_cel_firmware_event(content: bytes) -> tuple[int, bytes]:
    """Type and data of an event of the PFP inside a CEL record."""
    cursor = Cursor(content, what="the canonical event log's firmware event", order="big")
    fields = [(cursor.number(1), cursor.sized(4, most=MAX_ATTACHMENT_BYTES)) for _ in range(2)]
    cursor.end()
    if [number for number, _ in fields] != [0, 1] or len(fields[0][1]) != 4:
        raise EvidenceError("the canonical event log: a firmware event needs its type (4 bytes) and its data")
    return int.from_bytes(fields[0][1], "big"), fields[1][1]


def _read_cel_digests(data: bytes) -> Mapping[str, bytes]:
    cursor = Cursor(data, what="the canonical event log's digests", order="big")
    digests: dict[str, bytes] = {}
    while cursor.left:
        # One byte: the CEL narrows TPM_ALG_ID so.
        algorithm, digest = cursor.number(1), cursor.sized(4, most=MAX_DIGEST_BYTES)
        name = HASH_NAMES.get(algorithm, f"{algorithm:#06x}")
        if name in digests or len(digest) != HASH_BYTES.get(name, len(digest)):
            raise EvidenceError(
                f"the canonical event log: a digest of bank {name} is twice, or of a wrong length"
            )
        digests[name] = digest
    return digests
