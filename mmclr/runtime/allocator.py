"""Keep glibc from returning freed tensor memory to the system."""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next tensors (with glibc; elsewhere nothing changes).

    By default large tensors are asked of the system and given back in every step, page by page, which is a quarter of
    a small model's step on a CPU. The price: the process stays as large as it has ever been.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_MAX, 0)  # every tensor lies on the heap,
        library.mallopt(TRIM_THRESHOLD, -1)  # which never shrinks
