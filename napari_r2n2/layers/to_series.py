"""Image layers back to image series: what the axes of a layer mean, its pixel size in mm, its frames read when they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.place import METADATA_KEY
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.series import ImageSeries

__all__ = ["AXES_CHOICES", "TIME_FIRST", "VOLUME_AXES", "axes_of", "layer_to_series", "slices_first", "volumes_named"]

AXES_CHOICES = (("slice", "frame", "y", "x"), ("frame", "channel", "y", "x"))
"""What four axes without names may mean as they are; a person has to say it."""

TIME_FIRST = ("frame", "slice", "y", "x")
"""A third meaning: such a layer is shown anew with the slices first before it is used."""

VOLUME_AXES = ("frame", "z", "y", "x")
"""Axes of a series of volumes, and a fourth meaning: a layer without names is shown anew with them."""

_CHANNELS_OF_VOLUMES = ("frame", "channel", "z", "y", "x")

_TIME = ("frame", "time", "t")
_SLICE = ("slice", "z")


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
    if axes == 4 and labels[0] in _SLICE:
        return AXES_CHOICES[0]
    if axes == 4 and labels[0] in _TIME and labels[1] == "z":
        return VOLUME_AXES
    if axes == 5 and labels[0] in _TIME and labels[2] == "z" and not layer.rgb:
        return _CHANNELS_OF_VOLUMES
    if axes == 4 and labels[1] not in _SLICE and labels[0] in _TIME and not layer.rgb:
        return AXES_CHOICES[1]
    if axes == 4 and not (layer.rgb and labels[0] in _TIME and labels[1] not in _SLICE):
        return ()
    raise ArgumentError(
        f"layer {layer.name!r}: expected axes (frame, y, x), (slice, frame, y, x) or (frame, z, y, x), got {axes} axes {labels}; "
        "name them, or split the layer"
    )


def layer_to_series(layer: Any, axes: tuple[str, ...] = ()) -> tuple[ImageSeries, ...]:
    """The image series that an Image layer shows: one of volumes, or one a slice position. Nothing of a lazy layer is read yet.

    Parameters
    ----------
    layer
        An Image layer; of a multiscale one the finest level is used.
    axes
        What four axes without names mean, one of ``AXES_CHOICES``, or ``VOLUME_AXES`` for one series of volumes.

    Raises
    ------
    ArgumentError
        If the layer has no time axis, its axes have no meaning, it is turned or sheared, or its scale is no pixel size.
    """
    if axes == VOLUME_AXES:
        _check_volumes(layer)
    else:
        axes = axes_of(layer) or axes
    volumes = axes[-3:-2] == ("z",)
    if not axes or axes == TIME_FIRST:
        raise ArgumentError(f"layer {layer.name!r}: has 4 axes whose names do not say what they are; say it under 'Axes'")
    if not _is_upright(layer):
        raise ArgumentError(f"layer {layer.name!r}: is turned, sheared or has an affine; reset that, or resample the images first")
    if volumes:
        return (_series(layer, (), 0, ndim=3),)
    if axes[0] != "slice":
        return (_series(layer, (), 0),)
    return tuple(_series(layer, (index,), index) for index in range(_level(layer).shape[0]))


def _check_volumes(layer: Any) -> None:
    """See that a layer has the axes of a series of volumes."""
    axes = _level(layer).ndim - (1 if layer.rgb else 0)
    if axes not in (4, 5) or (axes == 5 and layer.rgb):
        raise ArgumentError(
            f"layer {layer.name!r}: a series of volumes needs axes (frame, z, y, x) or (frame, channel, z, y, x), this has {axes}; "
            "choose another layer"
        )


def slices_first(layer: Any) -> tuple[Any, dict[str, Any]]:
    """Data and options of the image layer that shows a layer (frame, slice, y, x) with its slices first; no pixel is copied."""
    return _shown_anew(layer, f"{layer.name} by slice", ("slice", "time", "y", "x"), swapped=True)


def volumes_named(layer: Any) -> tuple[Any, dict[str, Any]]:
    """Data and options of the image layer that shows a layer of four axes as volumes (time, z, y, x); no pixel is copied."""
    swapped = layer.axis_labels[0] in _SLICE
    return _shown_anew(layer, f"{layer.name} as volumes", ("time", "z", "y", "x"), swapped=swapped)


def _shown_anew(layer: Any, name: str, labels: tuple[str, ...], *, swapped: bool) -> tuple[Any, dict[str, Any]]:
    """The first two axes of a layer in another order, or under other names."""
    data = _level(layer)
    first = (1, 0) if swapped else (0, 1)
    if swapped and not hasattr(data, "transpose"):
        raise ArgumentError(f"layer {layer.name!r}: is read frame by frame, in this order; open its file anew, read the other way")
    options: dict[str, Any] = {"name": name, "rgb": layer.rgb, "axis_labels": labels}
    for what in ("scale", "translate", "units"):
        values = list(getattr(layer, what))
        options[what] = (*(values[k] for k in first), *values[2:])
    if not layer.rgb:
        options |= {"colormap": layer.colormap.name, "contrast_limits": tuple(layer.contrast_limits), "gamma": layer.gamma}
    return data.transpose((*first, *range(2, data.ndim))) if swapped else data, options


def _level(layer: Any) -> Any:
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def _is_upright(layer: Any) -> bool:
    ndim = layer.ndim
    upright = np.allclose(layer.rotate, np.eye(ndim)) and np.allclose(layer.shear, 0)
    return bool(upright and np.allclose(layer.affine.affine_matrix, np.eye(ndim + 1)))


class _LayerFrames:
    """(T, C, (z,) y, x) view of a layer's data, with or without C or with the colour last, at ``place``; read frame by frame."""

    def __init__(self, data: Any, place: tuple[int, ...], *, rgb: bool, ndim: int) -> None:
        self._data, self._place, self._rgb = data, place, rgb
        self.dtype = np.dtype(data.dtype)
        frames, *rest = data.shape[len(place) :]
        self.shape = (frames, rest[-1], *rest[:-1]) if rgb else (frames, *rest) if len(rest) > ndim else (frames, 1, *rest)

    def __getitem__(self, index: int) -> NDArray[Any]:
        frame = np.asarray(self._data[(*self._place, index)])
        return np.moveaxis(frame, -1, 0) if self._rgb else frame.reshape(self.shape[1:])


def _series(layer: Any, place: tuple[int, ...], index: int, *, ndim: int = 2) -> ImageSeries:
    frames = _LayerFrames(_level(layer), place, rgb=layer.rgb, ndim=ndim)
    remembered = layer.metadata.get(METADATA_KEY, {}).get("series", [])
    known = remembered[index] if index < len(remembered) else {}
    spacing, in_mm = _spacing_mm(layer, ndim)
    times = known.get("times_s")
    return ImageSeries(
        frames=frames,
        grid=Grid(frames.shape[2:], spacing, tuple(known.get("origin", ())), tuple(map(tuple, known.get("direction", ())))),
        times_s=tuple(times) if times is not None and len(times) == frames.shape[0] else None,
        name=_name(layer, known),
        modality=known.get("modality", ""),
        patient_grid=_patient_grid(known.get("patient_grid")),
        spacing_known=in_mm,
        notes=tuple(known.get("notes", ())),
        source=_source(layer, known),
    )


def _name(layer: Any, known: dict[str, Any]) -> str:
    """The series' own name, or that of the layer if a person gave it another."""
    renamed = layer.name != known.get("layer_name", layer.name)
    return str(layer.name if renamed else known.get("name") or layer.name)


def _source(layer: Any, known: dict[str, Any]) -> dict[str, Any]:
    """How the series was read; of a layer that napari read itself, only from where."""
    if known.get("source"):
        return dict(known["source"])
    path = None if layer.source.path is None or layer.source.parent is not None else str(layer.source.path)
    return {} if path is None else {"path": path}


def _patient_grid(known: dict[str, Any] | None) -> Grid | None:
    if known is None:
        return None
    direction = tuple(map(tuple, known["direction"]))
    return Grid(tuple(known["shape"]), tuple(known["spacing"]), tuple(known["origin"]), direction)


def _spacing_mm(layer: Any, ndim: int) -> tuple[tuple[float, ...], bool]:
    """Pixel size from scale and units, and whether it is a length; 1 unit of napari's 'pixel' counts as 1 mm."""
    spacing, known = [], True
    for scale, unit in zip(tuple(layer.scale)[-ndim:], tuple(layer.units)[-ndim:], strict=True):
        if not np.isfinite(scale) or scale <= 0:
            raise ArgumentError(f"layer {layer.name!r}: scale must be positive and finite, got {tuple(layer.scale)}; correct it")
        length = unit.is_compatible_with("mm")
        spacing.append(float((scale * unit).to("mm").magnitude) if length else float(scale))
        known = known and length
    return tuple(spacing), known
