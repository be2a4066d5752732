"""Largest resident memory of a process that another one started."""

from __future__ import annotations

from pathlib import Path

from r2n2.run_manifest import peak_memory_mib

__all__ = ["own_peak_memory_mib"]

_STATUS = Path("/proc/self/status")


def own_peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far in MiB, or None where the system does not tell.

    On Linux the number of getrusage is never below the memory of the process that started this one, so it is not asked.
    """
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return peak_memory_mib()
    kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    return peak_memory_mib() if kib is None else kib / 1024
