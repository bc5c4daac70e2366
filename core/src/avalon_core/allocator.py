"""What is left to the C library about memory: keep freed pages while they are wanted again at once, give them back later.

A large order passes through a dozen buffers of its size. Left to itself, glibc maps fresh pages for some of them, which
costs more than filling them, and keeps others for ever, in as many arenas as there are threads. Told otherwise, it
serves all of them from the same pages; `trim` gives these back when the rush is over.

Nothing happens under another C library.
"""

import ctypes
import functools
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_MAPPED_FROM = 32 * 1024 * 1024
"""Larger blocks are mapped, and unmapped when they are freed. As much as glibc allows; no request is larger."""

_KEPT_BYTES = 256 * 1024 * 1024
"""Free memory beyond this is given back at once."""


def reuse_pages() -> bool:
    """Serve large buffers from the same pages again and again. Call it early: before there are threads.

    Returns:
        Whether the C library knows how.
    """
    library = _glibc()
    if library is None:
        return False
    set_option: Callable[[int, int], int] = library.mallopt
    return all(
        [
            # Interpreted threads allocate one at a time in any case.
            set_option(_M_ARENA_MAX, 1),
            set_option(_M_MMAP_THRESHOLD, _MAPPED_FROM),
            set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES),
        ]
    )


def trim() -> bool:
    """Give free pages back to the system: some milliseconds, in which other threads may have to wait for memory.

    Returns:
        Whether there were any.
    """
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        found = all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim"))
    except OSError:
        return None
    return library if found else None
