"""Memory of this process: its peak, and giving back to the system what was freed.

glibc keeps blocks of up to 32 MiB for the next request. Those of large frames lie scattered, so that the process grows with the
number of frames though it holds no more than a batch of them.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["FRAMES_BETWEEN", "give_back_freed_memory", "peak_memory_mib"]

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


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far in MiB, or None where the system does not tell."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says on Linux is at least what the process had that started this one.
        lines = status.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:")), None)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
