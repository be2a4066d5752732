"""Align every frame of a moving image series to one reference frame by a short sequence of local Gaussian deformations.

Names are imported on first use, so that ``import r2n2`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DisplacementField": "r2n2.transform",
    "BSplineField": "r2n2.transform",
    "GaussianSequence": "r2n2.transform",
    "Grid": "r2n2.geometry",
    "ImageSeries": "r2n2.series",
    "LandmarkSet": "r2n2.series",
    "Space": "r2n2.geometry",
    "map_points": "r2n2.transform",
    "read_landmarks": "r2n2.io",
    "read_series": "r2n2.io",
    "register_pair": "r2n2.registration",
    "register_series": "r2n2.registration",
    "register_to_folder": "r2n2.workflow",
    "RegistrationConfig": "r2n2.config",
    "target_registration_error": "r2n2.evaluation",
    "warp": "r2n2.transform",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'r2n2' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
