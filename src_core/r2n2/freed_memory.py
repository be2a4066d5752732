"""Memory that was freed and that the C library keeps, given back to the system.

glibc keeps blocks of up to 32 MiB for the next request. Those of large frames lie scattered, so that the process grows with the
number of frames though it holds no more than a batch of them.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

__all__ = ["FRAMES_BETWEEN", "give_back_freed_memory"]

FRAMES_BETWEEN = 16
"""A pass that looks at one frame after another gives back after so many."""


def give_back_freed_memory() -> None:
    """Ask the C library to do so; where it cannot be asked, nothing is done. Takes some milliseconds."""
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    # Other C libraries than glibc have no such function.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
