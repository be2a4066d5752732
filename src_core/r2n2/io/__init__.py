"""Files to domain types and back: one module a format behind ``read_series``, ``write_series`` and ``read_landmarks``.

Names are imported on first use, so that ``import r2n2.io`` loads no format library.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Description": "r2n2.io.dispatch",
    "atomic_folder": "r2n2.io.atomic",
    "atomic_write": "r2n2.io.atomic",
    "check_plausible": "r2n2.io.landmarks",
    "check_usable": "r2n2.io.landmark_checks",
    "clean_stale": "r2n2.io.atomic",
    "describe": "r2n2.io.dispatch",
    "landmarks_of_slice": "r2n2.io.landmarks",
    "read_field": "r2n2.io.fields",
    "read_landmarks": "r2n2.io.landmarks",
    "read_segmentation": "r2n2.io.dicom.segmentation",
    "read_series": "r2n2.io.dispatch",
    "write_field": "r2n2.io.fields",
    "write_landmarks": "r2n2.io.landmarks",
    "write_series": "r2n2.io.writing",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'r2n2.io' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
