"""Image series and landmarks to napari layers and back, without Qt; world coordinates of a layer are mm (or pixels) and s.

The plain dictionary ``layer.metadata["napari-r2n2"]`` keeps what a layer cannot say: the grid's pose, the true times, the notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.fields import COLOUR
from napari_r2n2.stacks import LazyStack
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet

__all__ = [
    "AXES_CHOICES",
    "METADATA_KEY",
    "LayerData",
    "Place",
    "axes_of",
    "landmarks_to_layer",
    "layer_to_series",
    "series_to_layers",
]

METADATA_KEY = "napari-r2n2"
LayerData = tuple[Any, dict[str, Any], str]
LARGE_BYTES = 2**30
"""Series of more bytes are not read whole when they are opened."""

AXES_CHOICES = (("slice", "frame", "y", "x"), ("frame", "channel", "y", "x"))
"""What four axes without names may mean; a person has to say it."""


@dataclass(frozen=True)
class Place:
    """Where the layer of a series lies and how it is shown: what every layer of its registration takes over.

    Parameters
    ----------
    name
        Of the layer.
    axis_labels, units, scale, translate
        One item an axis: (slice,) frame, (channel,) y, x.
    rgb
        Whether a last axis holds the colour.
    display
        Options of an Image layer: contrast limits, gamma and colormap; empty for colour.
    """

    name: str
    axis_labels: tuple[str, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    translate: tuple[float, ...]
    rgb: bool
    display: dict[str, Any]

    @classmethod
    def of(cls, layer: Any, axes: tuple[str, ...]) -> Place:
        """Of an Image layer whose axes have these names."""
        display: dict[str, Any] = {}
        if not layer.rgb:
            limits = tuple(float(limit) for limit in layer.contrast_limits)
            display = {"colormap": layer.colormap.name, "contrast_limits": limits, "gamma": layer.gamma}
        units = tuple(str(unit) for unit in layer.units)
        return cls(layer.name, axes, units, tuple(layer.scale.tolist()), tuple(layer.translate.tolist()), bool(layer.rgb), display)

    @property
    def plane(self) -> tuple[float, float]:
        """Length of a pixel along y and x."""
        return self.scale[-2], self.scale[-1]

    def stack_options(self, what: str, *, steps: bool = True) -> dict[str, Any]:
        """Options of an image layer with the axes of the series, led by the step axis or not."""
        lead: tuple[str, ...] = ("step",) if steps else ()
        return {
            "name": f"{self.name} {what}",
            "axis_labels": (*lead, *self.axis_labels),
            "units": (*("pixel" for _ in lead), *self.units),
            "scale": (*(1.0 for _ in lead), *self.scale),
            "translate": (*(0.0 for _ in lead), *self.translate),
        }

    def plane_options(self, what: str) -> dict[str, Any]:
        """Options of a layer (y, x) that is drawn in the plane's unit instead of in pixels, so that lines are equally thick."""
        return {
            "name": f"{self.name} {what}",
            "axis_labels": self.axis_labels[-2:],
            "units": self.units[-2:],
            "translate": self.translate[-2:],
        }


def series_to_layers(series: Sequence[ImageSeries]) -> list[LayerData]:
    """Image layers (frame, y, x); slice positions that agree in shape and pixel size become one layer (slice, frame, y, x)."""
    first = series[0]
    alike = {(item.frames.shape, item.grid.spacing, item.dtype.str, item.spacing_known) for item in series}
    if len(series) > 1 and len(alike) == 1:
        options = _options(first, list(series))
        distance = _slice_distance_mm(series)
        options["axis_labels"] = ("slice", *options["axis_labels"])
        options["units"] = ("mm" if distance else "pixel", *options["units"])
        options["scale"] = (distance or 1.0, *options["scale"])
        return [_image_layer(series, options)]
    return [_image_layer([item], _options(item, [item])) for item in series]


def _image_layer(series: Sequence[ImageSeries], options: dict[str, Any]) -> LayerData:
    """All slice positions as one array, read frame by frame as they are looked at where that would fill the memory."""
    first = series[0]
    lead = (*([len(series)] if len(series) > 1 else []), len(first))
    item = _image(first, 0).shape

    def image(*place: int) -> NDArray[Any]:
        return _image(series[place[0] if len(place) > 1 else 0], place[-1])

    stack = LazyStack(lead, item, first.dtype, image)
    if stack.size * stack.dtype.itemsize <= LARGE_BYTES:
        return stack[...], options, "image"
    if not options["rgb"]:
        # napari would read every frame to find them.
        some = [_image(first, index) for index in (0, len(first) // 2, len(first) - 1)]
        options["contrast_limits"] = (float(np.nanmin(some)), float(np.nanmax(some)))
    return stack, options, "image"


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


def axes_of(layer: Any) -> tuple[str, ...]:
    """Names of an Image layer's axes without the colour; empty where four axes have no names that say what they mean.

    Raises
    ------
    ArgumentError
        If it cannot be an image series.
    """
    data, labels = _level(layer), tuple(layer.axis_labels)
    axes = data.ndim - (1 if layer.rgb else 0)
    if axes < 3:
        raise ArgumentError(f"layer {layer.name!r}: an image series needs axes (frame, y, x), this has {axes}; choose a stack")
    if axes == 3:
        return ("frame", "y", "x")
    if axes == 4 and "z" in labels:
        raise ArgumentError(f"layer {layer.name!r}: has axes {labels}; volumes are not aligned yet, choose one slice (2D+t)")
    if axes == 4 and labels[0] == "slice":
        return AXES_CHOICES[0]
    if axes == 4 and not layer.rgb:
        return AXES_CHOICES[1] if labels[0] == "frame" else ()
    raise ArgumentError(
        f"layer {layer.name!r}: expected axes (frame, y, x) or (slice, frame, y, x), got {axes} axes {labels}; split the layer"
    )


def layer_to_series(layer: Any, axes: tuple[str, ...] = ()) -> tuple[ImageSeries, ...]:
    """The image series that an Image layer shows: one for each slice position. Nothing is read from a lazy layer yet.

    Parameters
    ----------
    layer
        An Image layer; of a multiscale one the finest level is used.
    axes
        What four axes without names mean, one of ``AXES_CHOICES``.

    Raises
    ------
    ArgumentError
        If the layer has no time axis, its axes have no meaning, it is turned or sheared, or its scale is no pixel size.
    """
    axes = axes_of(layer) or axes
    if not axes:
        raise ArgumentError(f"layer {layer.name!r}: has 4 axes without names; say what they mean under 'Axes'")
    if not _is_upright(layer):
        raise ArgumentError(f"layer {layer.name!r}: is turned, sheared or has an affine; reset that, or resample the images first")
    if axes[0] != "slice":
        return (_series(layer, (), 0),)
    return tuple(_series(layer, (index,), index) for index in range(_level(layer).shape[0]))


def _level(layer: Any) -> Any:
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def _is_upright(layer: Any) -> bool:
    ndim = layer.ndim
    upright = np.allclose(layer.rotate, np.eye(ndim)) and np.allclose(layer.shear, 0)
    return bool(upright and np.allclose(layer.affine.affine_matrix, np.eye(ndim + 1)))


class _LayerFrames:
    """(T, C, y, x) view of a layer's data (T, y, x), (T, C, y, x) or (T, y, x, colour) at ``place``; read frame by frame."""

    def __init__(self, data: Any, place: tuple[int, ...], *, rgb: bool) -> None:
        self._data, self._place, self._rgb = data, place, rgb
        self.dtype = np.dtype(data.dtype)
        frames, *rest = data.shape[len(place) :]
        self.shape = (frames, rest[-1], *rest[:-1]) if rgb else (frames, *rest) if len(rest) == 3 else (frames, 1, *rest)

    def __getitem__(self, index: int) -> NDArray[Any]:
        frame = np.asarray(self._data[(*self._place, index)])
        return np.moveaxis(frame, -1, 0) if self._rgb else frame.reshape(self.shape[1:])


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
    placed = series.patient_grid
    return {
        "name": series.name,
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


def _series(layer: Any, place: tuple[int, ...], index: int) -> ImageSeries:
    frames = _LayerFrames(_level(layer), place, rgb=layer.rgb)
    remembered = layer.metadata.get(METADATA_KEY, {}).get("series", [])
    known = remembered[index] if index < len(remembered) else {}
    spacing, in_mm = _spacing_mm(layer)
    times = known.get("times_s")
    return ImageSeries(
        frames=frames,
        grid=Grid(frames.shape[2:], spacing, tuple(known.get("origin", ())), tuple(map(tuple, known.get("direction", ())))),
        times_s=tuple(times) if times is not None and len(times) == frames.shape[0] else None,
        name=known.get("name", layer.name),
        modality=known.get("modality", ""),
        patient_grid=_patient_grid(known.get("patient_grid")),
        spacing_known=in_mm,
        notes=tuple(known.get("notes", ())),
        source=dict(known.get("source", {})),
    )


def _patient_grid(known: dict[str, Any] | None) -> Grid | None:
    if known is None:
        return None
    direction = tuple(map(tuple, known["direction"]))
    return Grid(tuple(known["shape"]), tuple(known["spacing"]), tuple(known["origin"]), direction)


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
