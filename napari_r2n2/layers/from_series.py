"""Image series and landmarks to napari layers; world coordinates of a layer are mm (or pixels) and s.

The plain dictionary ``layer.metadata["napari-r2n2"]`` keeps what a layer cannot say: the grid's pose, the true times, the notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.landmarks.points import LANDMARKS, names
from napari_r2n2.layers.place import METADATA_KEY, shown_labels
from napari_r2n2.layers.stacks import LazyStack
from napari_r2n2.models.fields import COLOUR
from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["LayerData", "landmarks_to_layer", "name_layer", "series_to_layers"]

LayerData = tuple[Any, dict[str, Any], str]
LARGE_BYTES = 2**30
"""Series of more bytes are not read whole when they are opened."""

_FRAMES_LOOKED_AT = 9
_KEPT_VOLUMES = 2
_POINT_SIZE = 4
_USUAL_PERCENT = (0.5, 99.5)


def series_to_layers(series: Sequence[ImageSeries]) -> list[LayerData]:
    """Image layers (frame, y, x) and, of volumes, (frame, z, y, x).

    Slice positions that agree in shape and pixel size become one layer (slice, frame, y, x).
    """
    first = series[0]
    alike = {(item.frames.shape, item.grid.spacing, item.dtype.str, item.spacing_known) for item in series}
    if len(series) > 1 and len(alike) == 1 and first.grid.ndim == 2:
        options = _options(first, list(series))
        distance = _slice_distance_mm(series)
        options["axis_labels"] = ("slice", *options["axis_labels"])
        options["units"] = ("mm" if distance else "pixel", *options["units"])
        options["scale"] = (distance or 1.0, *options["scale"])
        return [_image_layer(series, options)]
    return [_image_layer([item], _options(item, [item])) for item in series]


def name_layer(options: dict[str, Any], name: str) -> None:
    """Give a layer another name before it is shown; a name given later is a person's and becomes that of its series."""
    options["name"] = name
    for known in options["metadata"][METADATA_KEY]["series"]:
        known["layer_name"] = name


def _image_layer(series: Sequence[ImageSeries], options: dict[str, Any]) -> LayerData:
    """All slice positions as one array, read frame by frame as they are looked at where that would fill the memory."""
    first = series[0]
    lead = (*([len(series)] if len(series) > 1 else []), len(first))
    item = _image(first, 0).shape

    def image(*place: int) -> NDArray[Any]:
        return _image(series[place[0] if len(place) > 1 else 0], place[-1])

    # Of a volume one slice is shown at a time: the volume is not read anew for each.
    stack = LazyStack(lead, item, first.dtype, lru_cache(_KEPT_VOLUMES)(image) if first.grid.ndim == 3 else image)
    if stack.size * stack.dtype.itemsize <= LARGE_BYTES:
        return stack[...], options, "image"
    return stack, options, "image"


def landmarks_to_layer(landmarks: LandmarkSet, series: ImageSeries) -> LayerData:
    """Points (frame, y, x) in pixels with the scale of the series' layer; the feature ``id`` names each."""
    points = landmarks.to_space(Space.INDEX, series.grid)
    labels, units, scale = _axes(series)
    options = {
        "name": f"{series.name or 'series'} landmarks",
        "features": {"id": list(points.ids)},
        "text": names(LANDMARKS, _POINT_SIZE, len(labels)),
        "size": _POINT_SIZE,
        "face_color": "transparent",
        "border_color": LANDMARKS,
        "border_width": 0.15,
        "axis_labels": shown_labels(labels),
        "units": units,
        "scale": scale,
        **_translate(series, len(labels)),
    }
    return np.column_stack([points.frames.astype(float), points.points]), options, "points"


def _image(series: ImageSeries, index: int) -> NDArray[Any]:
    """One frame as napari shows it: (y, x), (y, x, colour) or (channel, y, x)."""
    frame = series.frame(index)
    if series.channels == 1:
        return frame[0]
    return np.moveaxis(frame, 0, -1) if series.channels in COLOUR else frame


def _options(series: ImageSeries, everyone: Sequence[ImageSeries]) -> dict[str, Any]:
    labels, units, scale = _axes(series)
    if series.channels > 1 and series.channels not in COLOUR:
        labels, units, scale = (labels[0], "channel", *labels[1:]), (units[0], "pixel", *units[1:]), (scale[0], 1.0, *scale[1:])
    return {
        "name": series.name or "series",
        "rgb": series.channels in COLOUR,
        "axis_labels": shown_labels(labels),
        "units": units,
        "scale": scale,
        **_translate(series, len(labels)),
        **_limits(everyone),
        "metadata": {METADATA_KEY: {"series": [_remember(item, series.name or "series") for item in everyone]}},
    }


def _limits(everyone: Sequence[ImageSeries]) -> dict[str, Any]:
    """Contrast limits between which nearly all pixels of some frames lie: one bright vessel must not darken all the rest.

    Without them napari would read every frame of a lazy layer, and show a series by its brightest pixel.
    """
    first = everyone[0]
    if first.channels in COLOUR:
        return {}
    if first.dtype == np.bool_:
        return {"contrast_limits": (0.0, 1.0)}
    some = {(item, index) for item in range(len(everyone)) for index in (0, len(first) // 2, len(first) - 1)}
    chosen = sorted(some)[:: max(1, len(some) // _FRAMES_LOOKED_AT)]
    values = np.concatenate([everyone[item].frame(index).ravel() for item, index in chosen]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return {}
    low, high = np.percentile(values, _USUAL_PERCENT)
    if low == high:
        low, high = values.min(), values.max()
    return {"contrast_limits": (float(low), float(high if high > low else low + 1))}


def _axes(series: ImageSeries) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]]:
    step = 1.0
    if series.times_s is not None and len(series) > 1:
        step = float(np.median(np.diff(series.times_s)))
    timed = series.times_s is not None and step > 0 and len(series) > 1
    space = ("z", "y", "x")[-series.grid.ndim :]
    length = "mm" if series.spacing_known else "pixel"
    units = ("s" if timed else "pixel", *(length,) * series.grid.ndim)
    return ("frame", *space), units, (step if timed else 1.0, *series.grid.spacing)


def _translate(series: ImageSeries, axes: int) -> dict[str, Any]:
    """Where the first voxel of a volume lies, along the axes of the volume: those of equal orientation lie right to one another.

    napari has no place for an orientation that a layer would keep when it is sliced, and a slice lies where its first pixel is.
    """
    if series.grid.ndim == 2:
        return {}
    along = np.array(series.grid.direction).T @ np.array(series.grid.origin)
    return {"translate": (*(0.0,) * (axes - 3), *(float(value) for value in along))}


def _remember(series: ImageSeries, layer_name: str) -> dict[str, Any]:
    placed = series.patient_grid
    return {
        "name": series.name,
        "layer_name": layer_name,
        "spacing": list(series.grid.spacing),
        **_pose(series.grid),
        "patient_grid": None if placed is None else {"shape": list(placed.shape), "spacing": list(placed.spacing), **_pose(placed)},
        "times_s": None if series.times_s is None else list(series.times_s),
        "modality": series.modality,
        "notes": list(series.notes),
        # How it was read, so that the aligned series can be written as the file was; all of it fits JSON.
        "source": dict(series.source),
    }


def _pose(grid: Grid) -> dict[str, Any]:
    return {"origin": list(grid.origin), "direction": [list(row) for row in grid.direction]}


def _slice_distance_mm(series: Sequence[ImageSeries]) -> float:
    """Distance of the first two slice positions, or 0 where the file does not place them."""
    first, second = series[0].patient_grid, series[1].patient_grid
    return 0.0 if first is None or second is None else float(np.linalg.norm(np.subtract(second.origin, first.origin)))
