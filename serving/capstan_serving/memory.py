"""What glibc does with the process's memory. Elsewhere (musl, macOS) these do nothing."""

import ctypes
import os
import sys
from collections.abc import Callable

_M_ARENA_MAX = -8
"""From <malloc.h>."""


def share_arenas() -> None:
    """Have threads allocate from one heap a processor; to be called before there are threads.

    glibc gives each thread one of its own, and what requests leave in it is of no use to the others: resident
    memory grew by 6 to 10 % in ten minutes of mixed load, where it is 1 % with this.
    """
    call = _function("mallopt")
    if call:
        call(_M_ARENA_MAX, max(2, len(os.sched_getaffinity(0))))


def trim() -> None:
    """Give freed memory back to the system.

    glibc keeps it, for a next model that may never come: 380 MB after models with 100 weights of 1 MB, where
    79 are left with this. (A single large weight goes back by itself.)
    """
    call = _function("malloc_trim")
    if call:
        call(0)


def _function(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
