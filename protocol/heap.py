"""The C library's heap for processes that pass many buffers of about a mebibyte through: keep them instead of returning
each to the kernel and faulting it in anew, which costs as much time as sealing it.

glibc's mallopt(3); elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_buffers"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES = 16 << 20  # of each arena, not more than this stays when it is free
_PAD_BYTES = 2 << 20
_MAPPED_BYTES = 8 << 20  # what is larger comes from the kernel and goes back to it, as before
_ARENAS = 4


def keep_buffers() -> bool:
    """Set the heap so for this process; whether it could be."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = (
        (_M_ARENA_MAX, _ARENAS), (_M_MMAP_THRESHOLD, _MAPPED_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        (_M_TOP_PAD, _PAD_BYTES),
    )  # fmt: skip
    return all([mallopt(name, value) == 1 for name, value in settings])
