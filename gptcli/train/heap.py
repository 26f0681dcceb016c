"""Make glibc keep freed memory instead of returning it to the kernel.

A training step frees and takes the same large blocks again and again; each time the kernel would
clear their pages anew, which costs a quarter of a small model's time on a CPU.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # from glibc's malloc.h
_LARGE = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """For the rest of the process → whether it worked: glibc can, other C libraries cannot."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGE), (_TOP_PAD, 1 << 26))
    return all(mallopt(name, value) == 1 for name, value in wanted)
