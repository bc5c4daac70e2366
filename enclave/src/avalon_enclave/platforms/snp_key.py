"""A key that the SEV-SNP firmware derives for this guest: MSG_KEY_REQ through the driver of ``/dev/sev-guest``.

The key comes of the chip's own secret (VCEK), this guest's measurement and its policy. So it is the same for every start of
this very image on this very chip, another for any other image, and another where debugging is allowed. It **changes when
the chip's firmware is updated**, since the VCEK does.

Source: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), 7.2 Key Derivation, tables MSG_KEY_REQ and
MSG_KEY_RSP; the kernel's ``include/uapi/linux/sev-guest.h`` and Documentation/virt/coco/sev-guest.rst.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from avalon_enclave.errors import StartRefused

DEVICE = Path("/dev/sev-guest")
SNP_GET_DERIVED_KEY = 0xC0205301
"""``_IOWR('S', 1, struct snp_guest_request_ioctl)``: read and write, 32 bytes."""

KEY_BYTES = 32
_MESSAGE_VERSION = 1
_FIELDS = 1 << 0 | 1 << 3
"""GUEST_FIELD_SELECT: policy and measurement are mixed into the key."""

_REQUEST = struct.Struct("=BxxxxxxxQQQ")
"""struct snp_guest_request_ioctl: message version, addresses of request and answer, the firmware's and VMM's errors."""

_KEY_REQUEST = struct.Struct("=IIQIIQ")
"""struct snp_derived_key_req: root key (0: VCEK), reserved, fields, VMPL, guest SVN, TCB version."""

_ANSWER_BYTES = 64
_STATUS = slice(0, 4)
_KEY = slice(32, 64)
"""MSG_KEY_RSP: status (4), reserved (28), key (32)."""

Ioctl = Callable[[int, int, bytearray], int]
"""``fcntl.ioctl`` with a buffer that it changes."""

_OTHERWISE = 'Take sealing out of the configuration and make fresh keys at each start (keys = "fresh")'


class SnpKeyDevice:
    """The device file."""

    def __init__(self, path: Path = DEVICE, *, ioctl: Ioctl | None = None) -> None:
        """``ioctl``: in place of the kernel's, for tests."""
        self._path = path
        self._ioctl = ioctl or _kernel_ioctl

    def derive(self, *, vmpl: int = 0) -> bytes:
        """The key, 32 bytes, for a guest at this VMPL.

        Raises:
            StartRefused: there is no such device, or the firmware refuses.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise StartRefused(
                f"sealing: {self._path} cannot be opened ({exc.strerror}). It takes the kernel module sev-guest and "
                f"the right to open the device. {_OTHERWISE}"
            ) from exc
        try:
            return self._derive(descriptor, vmpl)
        except OSError as exc:
            raise StartRefused(
                f"sealing: {self._path} derives no key: {_explain(exc)}. {_OTHERWISE}"
            ) from exc
        finally:
            os.close(descriptor)

    def _derive(self, descriptor: int, vmpl: int) -> bytes:
        asked = ctypes.create_string_buffer(_KEY_REQUEST.pack(0, 0, _FIELDS, vmpl, 0, 0), _KEY_REQUEST.size)
        answer = ctypes.create_string_buffer(_ANSWER_BYTES)
        request = bytearray(
            _REQUEST.pack(_MESSAGE_VERSION, ctypes.addressof(asked), ctypes.addressof(answer), 0)
        )
        self._ioctl(descriptor, SNP_GET_DERIVED_KEY, request)
        *_, errors = _REQUEST.unpack(request)
        status, key = int.from_bytes(answer.raw[_STATUS], "little"), answer.raw[_KEY]
        if errors or status or not any(key):
            raise StartRefused(
                f"sealing: the SEV-SNP firmware derives no key: status {status:#x}, errors {errors:#x}. {_OTHERWISE}"
            )
        return key


def _kernel_ioctl(descriptor: int, request: int, argument: bytearray) -> int:
    # The fourth argument, which has no name, has the kernel's changes written back into the buffer.
    status: int = fcntl.ioctl(descriptor, request, argument, True)
    return status


def _explain(exc: OSError) -> str:
    known = {
        errno.ENOTTY: "it is not the device of SEV guests, or its driver has no derived keys (a guest under an SVSM)",
        errno.EIO: "the firmware or the host refuses",
    }
    return known.get(exc.errno or 0, exc.strerror or "unknown error")
