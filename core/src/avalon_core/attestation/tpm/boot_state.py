"""What replayed events tell of the start of a machine, for people and for policies.

What a PCR fixes is a sequence of digests; types and data are only written beside them, and whoever runs the machine
can extend PCRs later and label events at will. What he cannot is to put a digest in front of others. So there are two
kinds of findings:

*Proved*, if the firmware of PCR 0 is trusted: by digests alone, whatever their labels say, in PCR 7 and before the first
digest of a separator, with which firmware ends its own measurements (PFP, clauses 3.3.4.8 and 10.4.1):

- secure boot: the UEFI variable SecureBoot with its value (UEFI specification, clause 3.3);
- debug mode: "UEFI Debug Mode": a debugger of the firmware is on.

*As logged*, for people: the kernel's command line and the firmware's actions. Their digests are over their texts, but
an operator could have added an event of that text later. To be sure of them, pin the value of their PCR.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from avalon_core.attestation.tpm.event_log import (
    CEL_COS,
    EV_EFI_ACTION,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_IPL,
    EV_SEPARATOR,
    Event,
    EventLog,
    extending,
)
from avalon_core.attestation.tpm.structures import BankSelection

MAX_TEXT_CHARS = 8192
"""Of one attribute: a kernel takes a command line of 2048 to 4096 bytes."""

_SECURE_BOOT_PCR = 7
_GRUB_PCR = 8
_STUB_PCR = 12
_GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
"""EFI_GLOBAL_VARIABLE, 8BE4DF61-93CA-11D2-AA0D-00E098032B8C, as UEFI writes a GUID."""

_ERROR_SEPARATOR = b"\1\0\0\0"
_SEPARATORS = (bytes(4), b"\xff\xff\xff\xff", _ERROR_SEPARATOR)
"""Of success (two spellings), and of an error, whose data is another than what was digested (PFP, clause 10.4.1)."""

_DEBUG_MODES = (b"UEFI Debug Mode", b"UEFI Debug Mode\0")
_GRUB_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")
_GRUB_KERNEL = b"kernel_cmdline: "

_TYPES_OVER_DATA: Mapping[int, str] = {
    EV_SEPARATOR: "EV_SEPARATOR",
    EV_EFI_ACTION: "EV_EFI_ACTION",
    EV_EFI_VARIABLE_DRIVER_CONFIG: "EV_EFI_VARIABLE_DRIVER_CONFIG",
}
"""Types whose digest is over the data by the PFP (clause 10.4.1), and that firmware keeps to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootState:
    """What the events tell: see the module."""

    secure_boot: str
    """Proved: ``on``, ``off``; ``unknown`` where PCR 7 was not quoted, or its events tell it not or twice."""

    debug_mode: bool
    """Proved: the firmware said that its debugger is on."""

    separated: tuple[int, ...]
    """The quoted PCRs of 0 to 7 in which firmware ended its measurements with a separator."""

    kernel_command_line: str | None
    """As logged by GRUB or the stub of systemd; several are joined with a line feed."""

    actions: tuple[str, ...]
    """As logged: EFI actions in their order."""

    untrue: tuple[str, ...]
    """Events whose digest has to be over their data and is not, for people: ``EV_EFI_ACTION in PCR 5``."""


def boot_state(logs: Sequence[EventLog], selection: Sequence[BankSelection]) -> BootState:
    """Decode what replayed logs tell.

    Args:
        logs: that replay to the quoted values.
        selection: what was quoted, banks of hashes that are computed here; one bank of each PCR is enough.
    """
    banks = {pcr: entry.bank for entry in reversed(selection) for pcr in entry.pcrs}
    events = [
        _Quoted(event, event.pcr, banks[event.pcr])
        for log in logs
        for event in extending(log)
        if event.pcr is not None and event.pcr in banks
    ]
    firmware = _firmware_phase([event for event in events if event.pcr == _SECURE_BOOT_PCR])
    return BootState(
        secure_boot=_secure_boot(firmware),
        debug_mode=any(event.digests_one_of(_DEBUG_MODES) for event in firmware),
        separated=tuple(
            sorted({event.pcr for event in events if event.is_separator and event.pcr <= _SECURE_BOOT_PCR})
        ),
        kernel_command_line=_command_line(events),
        actions=tuple(
            _text(event.data) for event in events if event.label == EV_EFI_ACTION and event.is_over_data
        ),
        untrue=tuple(what for event in events if (what := event.untruth)),
    )


class _Quoted:
    """An event of a quoted PCR, with its digest in the quoted bank."""

    def __init__(self, event: Event, pcr: int, bank: str) -> None:
        self.pcr = pcr
        self.label = event.type if event.is_firmware else None
        self.data = event.data
        self._content = None if event.is_firmware else event.type
        self._digest = event.digests.get(bank, b"")
        self._bank = bank

    def digests_one_of(self, texts: Sequence[bytes]) -> bool:
        return any(self._digest == hashlib.new(self._bank, text).digest() for text in texts)

    @cached_property
    def is_over_data(self) -> bool:
        return self.digests_one_of([self.data])

    @cached_property
    def is_separator(self) -> bool:
        """By its digest, since labels prove nothing."""
        return self.digests_one_of(_SEPARATORS)

    @property
    def untruth(self) -> str | None:
        if self._content == CEL_COS:
            tlv = bytes([CEL_COS]) + len(self.data).to_bytes(4, "big") + self.data
            return None if self.digests_one_of([tlv]) else f"content of type {CEL_COS} in PCR {self.pcr}"
        if self.is_separator and self.label not in (EV_SEPARATOR, None):
            return f"a separator in PCR {self.pcr} that is labelled otherwise"
        name = None if self.label is None else _TYPES_OVER_DATA.get(self.label)
        if name is None or self.is_over_data:
            return None
        if self.label == EV_SEPARATOR and self.digests_one_of([_ERROR_SEPARATOR]):
            return None
        return f"{name} in PCR {self.pcr}"


def _firmware_phase(events: Sequence[_Quoted]) -> Sequence[_Quoted]:
    """The events before the separator; none where there is none: then anybody may have added any of them."""
    end = next((place for place, event in enumerate(events) if event.is_separator), 0)
    return events[:end]


def _secure_boot(firmware: Sequence[_Quoted]) -> str:
    # A machine without the variable measures it with no value (PFP, clause 3.3.4.8): not on.
    states = {
        "on": [_secure_boot_variable(b"\1")],
        "off": [_secure_boot_variable(value) for value in (b"\0", b"")],
    }
    found = [
        state for event in firmware for state, measured in states.items() if event.digests_one_of(measured)
    ]
    return found[0] if len(found) == 1 else "unknown"


def _secure_boot_variable(value: bytes) -> bytes:
    """The UEFI_VARIABLE_DATA of SecureBoot (PFP, clause 10.2.6): vendor, characters, bytes, name, value."""
    name = "SecureBoot"
    sizes = len(name).to_bytes(8, "little") + len(value).to_bytes(8, "little")
    return _GLOBAL_VARIABLE + sizes + name.encode("utf-16-le") + value


def _command_line(events: Sequence[_Quoted]) -> str | None:
    found = _grub_command_lines(events) + _stub_command_lines(events)
    return "\n".join(found)[:MAX_TEXT_CHARS] or None


def _grub_command_lines(events: Sequence[_Quoted]) -> list[str]:
    """Of GRUB, where all that it measured in its PCR can be read: what cannot might be another command line."""
    grub = [event for event in events if event.pcr == _GRUB_PCR and not event.is_separator]
    texts = [(event, _grub_text(event)) for event in grub]
    if any(text is None for _, text in texts):
        return []
    return [_text(text) for event, text in texts if text is not None and event.data.startswith(_GRUB_KERNEL)]


def _grub_text(event: _Quoted) -> bytes | None:
    """What GRUB digests: the text after its prefix, without the zero byte at its end; None where it was not that."""
    prefix = next((prefix for prefix in _GRUB_PREFIXES if event.data.startswith(prefix)), None)
    if event.label != EV_IPL or prefix is None:
        return None
    text = event.data[len(prefix) :].removesuffix(b"\0")
    return text if event.digests_one_of([text]) else None


def _stub_command_lines(events: Sequence[_Quoted]) -> list[str]:
    """Of the stub of systemd, which measures it in UTF-16, where there is nothing else in its PCR."""
    stub = [event for event in events if event.pcr == _STUB_PCR and not event.is_separator]
    if not all(event.label == EV_IPL and event.is_over_data for event in stub):
        return []
    return [
        _text(event.data.decode("utf-16-le", errors="replace").removesuffix("\0").encode()) for event in stub
    ]


def _text(data: bytes) -> str:
    """For a terminal: what would steer it is replaced."""
    text = data[:MAX_TEXT_CHARS].decode("utf-8", errors="replace")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
