"""`keep_freed_memory`: do not hand large blocks back to the system between one step and the next.

Every step of a model allocates and frees the same tens of megabytes. By default glibc gives blocks of that size back to
the kernel, and fetching them anew, page by page, costs up to half of a step.
"""

from __future__ import annotations

import ctypes
import platform

# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, in blocks of up to 1 GB; return whether that could be arranged.

    It holds for the whole process, which is why only `ase-uq md` and `rerun` do it unasked: call it at the top of a
    script whose process runs dynamics. The process then stays as large as it ever was. Without glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Older versions of glibc take no more than 32 MB.
    kept = any(mallopt(M_MMAP_THRESHOLD, size) for size in (LARGEST_KEPT, 1 << 25))
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and kept
