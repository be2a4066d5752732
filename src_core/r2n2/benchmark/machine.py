"""What a comparison ran on: processor, system, versions of every package that took part; nothing that names a person or a host."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from r2n2.results.manifest import versions

__all__ = ["available_cores", "machine"]

_PACKAGES = ("scikit-image", "scipy", "itk", "itk-elastix", "antspyx")


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, str]:
    """Name and value of each fact, in the order to show them."""
    facts = {"processor": _processor(), "cores": str(available_cores()), "system": f"{platform.system()} {platform.release()}"}
    facts |= {name: value for name, value in versions().items() if name != "platform"}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
