"""AWS Nitro Enclaves: evidence from the Nitro Security Module, the device ``/dev/nsm``.

The device signs what it is asked to; which code runs is in its registers (PCR0 is the enclave's image), filled and
locked by the hypervisor before the enclave starts. There is nothing to set up inside. What its users must know:

- A document ends after three hours, with its certificate. The host has to ask for new evidence before that.
- **There is no sealing.** A Nitro enclave has no storage and no key that survives it. What stands in its place is AWS
  KMS: a key whose policy lets only enclaves of a certain PCR0 or PCR8 decrypt, asked through the host with an
  attestation document. It is not built here; until then such an enclave makes fresh keys each time it starts.
- In debug mode (``nitro-cli run-enclave --debug-mode``) the registers are zero, and policies refuse the evidence.

Sources: the kernel's ``include/uapi/linux/nsm.h`` and ``drivers/misc/nsm.c``; github.com/aws/aws-nitro-enclaves-nsm-api
for the requests and answers; AWS Nitro Enclaves User Guide.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from avalon_core.attestation import cbor, proof_data
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.nitro import NITRO, parse_document
from avalon_core.attestation.nitro.cose import parse_sign1
from avalon_core.attestation.nitro.document import PCR_BYTES
from avalon_core.errors import EvidenceError
from avalon_enclave.errors import StartRefused

DEVICE = Path("/dev/nsm")

NSM_IOCTL_RAW = 0xC0200A00
"""``_IOWR(0x0A, 0, struct nsm_raw)``: read and write, 32 bytes."""

REQUEST_MAX_BYTES = 0x1000
RESPONSE_MAX_BYTES = 0x3000
"""The kernel's NSM_REQUEST_MAX_SIZE and NSM_RESPONSE_MAX_SIZE."""

_NSM_RAW = struct.Struct("=QQQQ")
"""struct nsm_raw: address and length of the request, address and length of the answer."""

_NO_SEALING = (
    "AWS Nitro Enclaves cannot seal: they have no storage and no key that outlives them. Configure fresh keys (the worker "
    "has a new identity with each start), or keep keys in AWS KMS under a key policy on PCR0 or PCR8"
)

Ioctl = Callable[[int, int, bytearray], int]
"""``fcntl.ioctl`` with a buffer that it changes."""


class NsmDevice(Protocol):
    """Whoever answers requests to the Nitro Security Module."""

    def exchange(self, request: bytes) -> bytes:
        """Send a request in CBOR and return the answer in CBOR.

        Raises:
            StartRefused: there is no such device, or it does not answer.
        """


class NsmFile:
    """The device file. Satisfies :class:`NsmDevice`."""

    def __init__(self, path: Path = DEVICE, *, ioctl: Ioctl | None = None) -> None:
        """``ioctl``: in place of the kernel's, for tests."""
        self._path = path
        self._ioctl = ioctl or _kernel_ioctl

    def exchange(self, request: bytes) -> bytes:
        try:
            # Evidence is asked for a few times a day: no descriptor is kept for it.
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise StartRefused(
                f"--platform nitro: {self._path} cannot be opened ({exc.strerror}). Is this a Nitro enclave? Build an "
                "enclave image of this program and start it with nitro-cli run-enclave; elsewhere choose another platform"
            ) from exc
        try:
            return self._exchange(descriptor, request)
        except OSError as exc:
            raise StartRefused(f"--platform nitro: {self._path} does not answer: {_explain(exc)}") from exc
        finally:
            os.close(descriptor)

    def _exchange(self, descriptor: int, request: bytes) -> bytes:
        sent = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(RESPONSE_MAX_BYTES)
        raw = bytearray(
            _NSM_RAW.pack(ctypes.addressof(sent), len(request), ctypes.addressof(answer), len(answer))
        )
        self._ioctl(descriptor, NSM_IOCTL_RAW, raw)
        # The kernel writes back how much it has copied; an answer that did not fit is cut there, and is no CBOR then.
        _, _, _, length = _NSM_RAW.unpack(raw)
        return answer.raw[: min(length, len(answer))]


def _kernel_ioctl(descriptor: int, request: int, argument: bytearray) -> int:
    # The fourth argument, which has no name, has the kernel's changes written back into the buffer.
    status: int = fcntl.ioctl(descriptor, request, argument, True)
    return status


def _explain(exc: OSError) -> str:
    known = {
        errno.ENOTTY: "it is not the device of the Nitro Security Module",
        errno.EINVAL: "its driver does not know this request; the enclave's kernel is too old or not for Nitro",
        errno.EMSGSIZE: f"the request is larger than {REQUEST_MAX_BYTES} bytes",
        errno.ETIMEDOUT: "the hypervisor took longer than two minutes; start the enclave again",
    }
    return known.get(exc.errno or 0, exc.strerror or "unknown error")


class NitroPlatform:
    """See the module. Satisfies :class:`avalon_enclave.platforms.base.Platform`."""

    name = "nitro"
    simulated = False

    def __init__(self, *, device: NsmDevice | None = None) -> None:
        """Read the identity of the code.

        Raises:
            StartRefused: no device, or it does not answer as the Nitro Security Module does.
        """
        self._device = device or NsmFile()
        self._pcr0 = self._describe_pcr(0)

    def measurement(self) -> str:
        return self._pcr0.hex()

    def issue_evidence(self, report_data: bytes) -> tuple[str, Any]:
        """See :meth:`avalon_enclave.platforms.base.Platform.issue_evidence`. It is good for three hours.

        Raises:
            StartRefused: the device does not answer, or vouches for something else than it was asked to.
        """
        answer = self._ask("Attestation", {"user_data": report_data, "nonce": None, "public_key": None})
        document = answer.get("document")
        if not isinstance(document, bytes):
            raise _unexpected("Attestation")
        self._check(document, report_data)
        return proof_data.encode(Evidence(format=NITRO.name, document=document))

    def seal(self, secret: bytes) -> bytes:
        raise StartRefused(_NO_SEALING)

    def unseal(self, sealed: bytes) -> bytes:
        raise StartRefused(_NO_SEALING)

    def _describe_pcr(self, index: int) -> bytes:
        value = self._ask("DescribePCR", {"index": index}).get("data")
        if not isinstance(value, bytes) or len(value) not in PCR_BYTES:
            raise _unexpected("DescribePCR")
        return value

    def _check(self, document: bytes, report_data: bytes) -> None:
        """Evidence that nobody will accept must fail here, where the cause is known, and not at every requester."""
        try:
            parsed = parse_document(parse_sign1(document).payload)
        except EvidenceError as exc:
            raise StartRefused(f"the Nitro device issued an unreadable document: {exc.message}") from None
        if parsed.user_data != report_data:
            raise StartRefused("the Nitro device vouched for other data than it was asked to: start anew")
        if parsed.pcrs[0] != self._pcr0:
            raise StartRefused("the Nitro device reports another PCR0 in its document than when asked for it")

    def _ask(self, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request, ``{operation: arguments}``, and unwrap the answer, ``{operation: values}``."""
        request = cbor.encode({operation: dict(arguments)})
        if len(request) > REQUEST_MAX_BYTES:
            raise StartRefused(
                f"a request to the Nitro device of {len(request)} bytes, expected at most {REQUEST_MAX_BYTES}"
            )
        try:
            answer = cbor.decode(
                self._device.exchange(request),
                what="the answer of the Nitro device",
                max_bytes=RESPONSE_MAX_BYTES,
            )
        except EvidenceError as exc:
            raise StartRefused(f"--platform nitro: {exc.message}") from None
        if isinstance(answer, dict) and isinstance(answer.get("Error"), str):
            # InvalidArgument, InvalidIndex, InvalidResponse, ReadOnlyIndex, InvalidOperation, BufferTooSmall,
            # InputTooLarge, InternalError: ErrorCode of the NSM API.
            raise StartRefused(f"the Nitro device refuses {operation}: {answer['Error'][:40]!r}")
        values = answer.get(operation) if isinstance(answer, dict) and len(answer) == 1 else None
        if not isinstance(values, dict):
            raise _unexpected(operation)
        return values


def _unexpected(operation: str) -> StartRefused:
    return StartRefused(
        f"the Nitro device answers {operation} in a form that is not known here: "
        "this program is too old for it, or it is another device"
    )
