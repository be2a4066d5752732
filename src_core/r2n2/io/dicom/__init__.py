"""DICOM in and out: headers within bounds, frames grouped into series and ordered in time, pixels decoded, results written.

Names are imported on first use, so that writing loads no reader and reading no writer.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "DicomGroup": "r2n2.io.dicom.listing",
    "DicomListing": "r2n2.io.dicom.listing",
    "DicomVolume": "r2n2.io.dicom.listing",
    "Segmentation": "r2n2.io.dicom.segmentation",
    "is_segmentation": "r2n2.io.dicom.segmentation",
    "list_dicom": "r2n2.io.dicom.listing",
    "read_dicom": "r2n2.io.dicom.reader",
    "read_segmentation": "r2n2.io.dicom.segmentation",
    "write_dicom_series": "r2n2.io.dicom.write",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'r2n2.io.dicom' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
