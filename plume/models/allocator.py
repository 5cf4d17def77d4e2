"""Keep freed memory in the process: on a CPU page faults cost as much as many a kernel (speed.md section 2c)."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def hold_freed_memory() -> bool:
    """Tell glibc to reuse what tensors give back instead of returning it to the system; true if it listened.

    Every activation of 32 MiB or more is otherwise mapped, zeroed and faulted in anew at each step. It holds for
    the whole process and all its later life, at the price of a resident size that only grows: for training,
    not for a library call. Where the C library is another one, nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
    taken = [mallopt(name, value) for name, value in settings]
    return taken == [1, 1, 1]
