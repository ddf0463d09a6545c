"""A setting of the process that makes a training step a sixth faster on Linux."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, rather than give it back to the system.

    A step frees the arrays of the step before and asks for the same sizes again. By default glibc
    returns large ones to the kernel, which then clears thousands of fresh pages a step. Where
    the C library is another one, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
    mallopt(_TRIM_THRESHOLD, 2**30)
