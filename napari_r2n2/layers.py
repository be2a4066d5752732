"""Image series and landmarks to napari layers and back, without Qt; world coordinates of a layer are mm (or pixels) and s.

The plain dictionary ``layer.metadata["napari-r2n2"]`` keeps what a layer cannot say: the grid's pose, the true times, the notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["METADATA_KEY", "LayerData", "landmarks_to_layer", "layer_to_series", "registered_layer", "series_to_layers"]

METADATA_KEY = "napari-r2n2"
LayerData = tuple[Any, dict[str, Any], str]
_COLOUR = (3, 4)


def series_to_layers(series: Sequence[ImageSeries]) -> list[LayerData]:
    """Image layers (frame, y, x); slice positions that agree in shape and pixel size become one layer (slice, frame, y, x)."""
    first = series[0]
    alike = {(item.frames.shape, item.grid.spacing, item.dtype.str, item.spacing_known) for item in series}
    if len(series) > 1 and len(alike) == 1:
        data = np.stack([_stack(item) for item in series])
        options = _options(first, list(series))
        distance = _slice_distance_mm(series)
        options["axis_labels"] = ("slice", *options["axis_labels"])
        options["units"] = ("mm" if distance else "pixel", *options["units"])
        options["scale"] = (distance or 1.0, *options["scale"])
        return [(data, options, "image")]
    return [(_stack(item), _options(item, [item]), "image") for item in series]


def landmarks_to_layer(landmarks: LandmarkSet, series: ImageSeries) -> LayerData:
    """Points (frame, y, x) in pixels with the scale of the series' layer; the feature ``id`` names each."""
    points = landmarks.to_space(Space.INDEX, series.grid)
    labels, units, scale = _axes(series)
    options = {
        "name": f"{series.name or 'series'} landmarks",
        "features": {"id": list(points.ids)},
        "text": {"string": "{id}", "anchor": "upper_left", "color": "yellow", "size": 9},
        "size": 4,
        "face_color": "transparent",
        "border_color": "yellow",
        "border_width": 0.15,
        "axis_labels": labels,
        "units": units,
        "scale": scale,
    }
    return np.column_stack([points.frames.astype(float), points.points]), options, "points"


def layer_to_series(layer: Any) -> tuple[ImageSeries, ...]:
    """The image series that an Image layer shows: one for each slice position.

    Raises
    ------
    ArgumentError
        If the layer has no time axis, or its scale is no pixel size.
    """
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    labels = tuple(layer.axis_labels)
    extra = 1 if layer.rgb else 0
    axes = data.ndim - extra
    if axes < 3:
        raise ArgumentError(f"layer {layer.name!r}: an image series needs axes (frame, y, x), this has {axes}; choose a stack")
    if axes > 4 or (axes == 4 and labels[0] not in ("slice", "frame")):
        raise ArgumentError(
            f"layer {layer.name!r}: expected axes (frame, y, x) or (slice, frame, y, x), got {labels}; "
            "name the first axis 'slice' if it is one (layer.axis_labels), or split the layer"
        )
    several = axes == 4 and labels[0] == "slice"
    volumes = data if several else [data]
    return tuple(_series(layer, volume, index) for index, volume in enumerate(volumes))


def registered_layer(layer: Any, data: NDArray[Any], *, complete: bool, settings: Mapping[str, Any]) -> LayerData:
    """The layer of the aligned series: shape, scale, units, labels and display of ``layer``, which stays untouched."""
    metadata = dict(layer.metadata)
    metadata[METADATA_KEY] = {**metadata.get(METADATA_KEY, {}), "registration": {"complete": complete, "settings": dict(settings)}}
    options = {
        "name": f"{layer.name} registered" + ("" if complete else " (partial)"),
        "scale": tuple(layer.scale),
        "translate": tuple(layer.translate),
        "units": tuple(str(unit) for unit in layer.units),
        "axis_labels": tuple(layer.axis_labels),
        "rgb": layer.rgb,
        "metadata": metadata,
    }
    if not layer.rgb:
        options |= {"colormap": layer.colormap.name, "contrast_limits": tuple(layer.contrast_limits)}
    return data, options, "image"


def _stack(series: ImageSeries) -> NDArray[Any]:
    """(T, y, x), or (T, y, x, 3 or 4) for colour, or (T, C, y, x)."""
    frames = np.stack([series.frame(index) for index in range(len(series))])
    if series.channels == 1:
        return frames[:, 0]
    return np.moveaxis(frames, 1, -1) if series.channels in _COLOUR else frames


def _options(series: ImageSeries, everyone: Sequence[ImageSeries]) -> dict[str, Any]:
    labels, units, scale = _axes(series)
    if series.channels > 1 and series.channels not in _COLOUR:
        labels, units, scale = (labels[0], "channel", *labels[1:]), (units[0], "pixel", *units[1:]), (scale[0], 1.0, *scale[1:])
    return {
        "name": series.name or "series",
        "rgb": series.channels in _COLOUR,
        "axis_labels": labels,
        "units": units,
        "scale": scale,
        "metadata": {METADATA_KEY: {"series": [_remember(item) for item in everyone]}},
    }


def _axes(series: ImageSeries) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]]:
    step = 1.0
    if series.times_s is not None and len(series) > 1:
        step = float(np.median(np.diff(series.times_s)))
    timed = series.times_s is not None and step > 0 and len(series) > 1
    space = ("z", "y", "x")[-series.grid.ndim :]
    length = "mm" if series.spacing_known else "pixel"
    units = ("s" if timed else "pixel", *(length,) * series.grid.ndim)
    return ("frame", *space), units, (step if timed else 1.0, *series.grid.spacing)


def _remember(series: ImageSeries) -> dict[str, Any]:
    return {
        "origin": list(series.grid.origin),
        "direction": [list(row) for row in series.grid.direction],
        "times_s": None if series.times_s is None else list(series.times_s),
        "modality": series.modality,
        "notes": list(series.notes),
        "source": {key: value for key, value in series.source.items() if isinstance(value, str | int | float | bool | None)},
    }


def _slice_distance_mm(series: Sequence[ImageSeries]) -> float:
    """Distance of the first two slice positions, or 0 where the file does not place them."""
    first, second = series[0].patient_grid, series[1].patient_grid
    return 0.0 if first is None or second is None else float(np.linalg.norm(np.subtract(second.origin, first.origin)))


def _series(layer: Any, volume: Any, index: int) -> ImageSeries:
    array = np.asarray(volume)
    frames = np.moveaxis(array, -1, 1) if layer.rgb else array if array.ndim == 4 else array[:, None]
    remembered = layer.metadata.get(METADATA_KEY, {}).get("series", [])
    known = remembered[index] if index < len(remembered) else {}
    spacing, in_mm = _spacing_mm(layer)
    times = known.get("times_s")
    return ImageSeries(
        frames=frames,
        grid=Grid(frames.shape[2:], spacing, tuple(known.get("origin", ())), tuple(map(tuple, known.get("direction", ())))),
        times_s=tuple(times) if times is not None and len(times) == len(frames) else None,
        name=layer.name,
        modality=known.get("modality", ""),
        spacing_known=in_mm,
        notes=tuple(known.get("notes", ())),
        source={**known.get("source", {}), "layer": layer.name},
    )


def _spacing_mm(layer: Any) -> tuple[tuple[float, ...], bool]:
    """Pixel size from scale and units, and whether it is a length; 1 unit of napari's 'pixel' counts as 1 mm."""
    spacing, known = [], True
    for scale, unit in zip(tuple(layer.scale)[-2:], tuple(layer.units)[-2:], strict=True):
        if not np.isfinite(scale) or scale <= 0:
            raise ArgumentError(f"layer {layer.name!r}: scale must be positive and finite, got {tuple(layer.scale)}; correct it")
        length = unit.is_compatible_with("mm")
        spacing.append(float((scale * unit).to("mm").magnitude) if length else float(scale))
        known = known and length
    return tuple(spacing), known
