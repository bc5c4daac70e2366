"""What a process of the trusted zone does to itself first: no memory dump, no debugger, no life after its parent.

On a simulated platform this keeps honest mistakes (a core file in a backup) from leaking keys; it is no protection
from the operator. On real TEEs the hardware is that protection, and these measures cost nothing.
"""

import ctypes
import os
import resource
import signal

from avalon_enclave.errors import StartRefused

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def harden() -> None:
    """Die with the parent (the thread of it that started us), dump no core, let nobody attach.

    Raises:
        StartRefused: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in (
        (_PR_SET_PDEATHSIG, int(signal.SIGKILL)),
        (_PR_SET_DUMPABLE, 0),
        (_PR_SET_NO_NEW_PRIVS, 1),
    ):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise StartRefused(
                f"the kernel refused prctl({option}): {os.strerror(ctypes.get_errno())}; "
                "an enclave needs Linux and a seccomp profile that allows prctl"
            )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def silence(*descriptors: int) -> None:
    """Point file descriptors at /dev/null: what a workload prints must not reach the host."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    if null not in descriptors:
        os.close(null)
