"""A series shown anew as volumes or slice by slice: from its file where that holds the same, else its axes in another order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.to_series import VOLUME_AXES, axes_of, layer_to_series, slices_first, volumes_named
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from r2n2.series import ImageSeries

__all__ = ["can_be_either", "is_volumes", "retaken"]


def is_volumes(layer: Any) -> bool:
    """Whether the axes of an Image layer are those of volumes in time."""
    try:
        return axes_of(layer)[-3:-2] == ("z",)
    except ArgumentError:
        return False


def can_be_either(layer: Any) -> bool:
    """Whether an Image layer is a stack of slices in time, which may be taken as volumes or slice by slice."""
    try:
        axes = axes_of(layer)
    except ArgumentError:
        return False
    return axes == VOLUME_AXES or (axes[:1] == ("slice",) and layer.data.shape[0] > 1)


def retaken(layer: Any, *, volumes: bool) -> tuple[Any, dict[str, Any]]:
    """Data and options of an Image layer that shows the series of another one as volumes, or slice by slice.

    Parameters
    ----------
    layer
        One that ``can_be_either``.

    Raises
    ------
    R2N2Error
        If the distance of the slices is not known, or the file says why they make no volume.
    """
    found = _read_again(layer_to_series(layer), volumes=volumes)
    name = f"{layer.name} {'as volumes' if volumes else 'by slice'}"
    if found:
        from napari_r2n2.layers.from_series import name_layer, series_to_layers

        made = series_to_layers(found)
        if len(made) == 1:
            data, options, _kind = made[0]
            name_layer(options, name)
            if not layer.rgb:
                limits = tuple(layer.contrast_limits)
                options |= {"colormap": layer.colormap.name, "contrast_limits": limits, "gamma": layer.gamma}
            return data, options
    if volumes and not layer.units[0].is_compatible_with("mm") and layer.units[-1].is_compatible_with("mm"):
        raise ArgumentError(
            f"layer {layer.name!r}: the distance of its slices is not known; set it, layer.scale and layer.units of the first axis"
        )
    return (volumes_named if volumes else slices_first)(layer)


def _read_again(series: Sequence[ImageSeries], *, volumes: bool) -> tuple[ImageSeries, ...]:
    """What the file gives when it is read the other way; nothing where there is no file, or it holds others than the layer."""
    from dataclasses import replace

    from r2n2.io import read_series

    source = series[0].source
    path = Path(str(source.get("path", "")))
    if not source.get("path") or not path.exists():
        return ()
    asked = {name: value for name, value in dict(source.get("asked", {})).items() if name != "slice_index"}
    if source.get("format") == "dicom" and path.is_dir() and "series" not in asked:
        asked["series"] = str(source["series"]).partition("/")[0]
    asked["volumes"] = volumes
    found = read_series(path, **asked)
    # A layer whose pixels were changed shows what its file does not.
    if {item.grid.ndim for item in found} != {3 if volumes else 2} or not np.array_equal(_values(found), _values(series)):
        return ()
    return tuple(replace(item, source={**item.source, "asked": asked}) for item in found)


def _values(series: Sequence[ImageSeries]) -> NDArray[Any]:
    """Of the first and the last frame, in whatever order slices come."""
    return np.stack([np.sort(np.concatenate([item.frame(at).ravel() for item in series])) for at in (0, len(series[0]) - 1)])
