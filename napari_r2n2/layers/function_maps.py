"""Maps of lung function and masks as layers on the series they were read from, with units in their names and limits that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.place import METADATA_KEY, Place

if TYPE_CHECKING:
    from napari_r2n2.models.lung_function import LungRun

__all__ = ["map_layers", "mask_layer"]

_DEFECTS = {0: "transparent", 1: "#2f7fb8", 2: "#c8323c", 3: "#7b3f9d", None: "transparent"}
_HIGH_PERCENT = 99.0

# Name of a map -> name of its layer, colormap, and whether its limits lie symmetrically about 0; what is first is shown.
_SHOWN = {
    "fractional_ventilation": ("fractional ventilation", "viridis", False),
    "perfusion": ("perfusion (of large vessels)", "inferno", False),
    "ventilation_perfusion_ratio": ("V/Q (1 is balanced)", "turbo", False),
    "breathing_delay": ("breathing delay (s)", "twilight_shifted", True),
    "heart_delay": ("heart delay (s)", "twilight_shifted", True),
    "jacobian_ventilation": ("change of area", "RdBu", True),
}


def map_layers(run: LungRun, place: Place) -> list[tuple[NDArray[Any], dict[str, Any], str]]:
    """Data, options and kind of a layer a map, the defects last; only fractional ventilation is visible at first."""
    from r2n2.results.lung_files import maps_of

    maps = [maps_of(function) for function in run.functions]
    found: list[tuple[NDArray[Any], dict[str, Any], str]] = []
    for name, (title, colours, symmetric) in _SHOWN.items():
        if not all(name in one for one in maps):
            continue
        data, options = _spread([one[name] for one in maps], place, title)
        options |= {"colormap": colours, "contrast_limits": _limits(name, data, symmetric=symmetric), "blending": "translucent"}
        options |= {"visible": name == "fractional_ventilation", "metadata": {METADATA_KEY: {"registration": {}, "map": name}}}
        found.append((data, options, "image"))
    data, options = _spread([one["defects"] for one in maps], place, "defects (1 ventilation, 2 perfusion, 3 both)")
    options |= {"visible": False, "opacity": 0.7, "colormap": _DEFECTS, "metadata": {METADATA_KEY: {"registration": {}}}}
    found.append((data, options, "labels"))
    return found


def mask_layer(masks: Sequence[NDArray[np.bool_]], place: Place, name: str) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Data and options of a Labels layer that a person can paint on."""
    data, options = _spread([mask.astype(np.uint8) for mask in masks], place, name)
    # Painted on, so an array of its own; over time there is one plane.
    return np.array(data if data.ndim == 2 else data[:, :1]), options | {"opacity": 0.35}


def _spread(planes: Sequence[NDArray[Any]], place: Place, title: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """One plane for all frames; of several slice positions (slice, 1, y, x)."""
    data = planes[0] if len(planes) == 1 else np.stack(planes)[:, None]
    ndim = data.ndim
    labels = tuple("time" if axis == "frame" else axis for axis in place.axis_labels if axis != "channel")
    kept = [k for k, axis in enumerate(place.axis_labels) if axis != "channel"][-ndim:]
    options = {
        "name": f"{place.name} {title}",
        "axis_labels": labels[-ndim:],
        "scale": tuple(place.scale[k] for k in kept),
        "translate": tuple(place.translate[k] for k in kept),
        "units": tuple(place.units[k] for k in kept),
    }
    return data, options


def _limits(name: str, data: NDArray[Any], *, symmetric: bool) -> tuple[float, float]:
    known = data[np.isfinite(data)]
    top = float(np.percentile(np.abs(known), _HIGH_PERCENT)) if known.size else 1.0
    top = top if top > 0 else 1.0
    if name == "ventilation_perfusion_ratio":
        return 0.0, 2.0
    return (-top, top) if symmetric else (0.0, top)
