"""Any layer carried along by a registration, as the data, options and kind of the layer that shows it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.carry.axes import check_upright
from napari_r2n2.layers.carry.drawings import carry_points, carry_shapes, carry_tracks
from napari_r2n2.layers.carry.pixels import carry_pixels
from napari_r2n2.layers.carry.way import CarryProgress, Way, carriers_of
from napari_r2n2.layers.place import METADATA_KEY, Place
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from napari_r2n2.models.registration import Registration

__all__ = ["KINDS", "carry_layer", "frames_drawn"]

KINDS = ("image", "labels", "points", "shapes", "tracks")
"""Kinds of layers that can be carried along."""

_EACH_ITEM = ("size", "symbol", "face_color", "border_color", "border_width", "shown", "edge_color", "edge_width", "z_index")
"""Options that hold one value an item."""
_OF_THE_FORMER = (
    "affine",
    "rotate",
    "shear",
    "multiscale",
    "data",
    "shape_type",
    "properties",
    "property_choices",
    "features",
    "feature_defaults",
    "n_dimensional",
    "ndim",
    "text",
)


def carry_layer(
    layer: Any, registration: Registration, place: Place, way: Way
) -> Generator[CarryProgress, None, tuple[Any, dict[str, Any], str]]:
    """A new layer of the same kind that shows a layer at the other end of the way; the layer itself stays as it is.

    Raises
    ------
    ArgumentError
        If the layer is turned, its axes are not those of the series, nothing is drawn where the way begins, or frames are not
        aligned yet.
    """
    check_upright(layer)
    _data, meta, kind = layer.as_layer_data_tuple()
    if kind not in KINDS:
        raise ArgumentError(f"layer {layer.name!r}: a {kind} layer cannot be carried along; choose one of {', '.join(KINDS)}")
    if kind not in ("image", "labels") and len(layer.data) == 0:
        raise ArgumentError(f"layer {layer.name!r}: is empty; draw something first")
    carriers = carriers_of(registration)
    options = {name: value for name, value in meta.items() if name not in _OF_THE_FORMER}
    if kind in ("image", "labels"):
        data, axes = yield from carry_pixels(layer, place, registration, carriers, way, labels=kind == "labels")
    else:
        carry = {"points": carry_points, "shapes": carry_shapes, "tracks": carry_tracks}[kind]
        data, kept, axes = yield from carry(layer, place, registration, carriers, way)
        options = _of_items(options, kept, len(layer.data))
        options["features"] = layer.features.iloc[kept].reset_index(drop=True)
        if kind == "tracks" and way.source != "every":
            options["graph"] = {}
    options |= axes
    options["name"] = f"{layer.name} {way.text}"
    options["metadata"] = _metadata(layer, way)
    return data, options, kind


def frames_drawn(layer: Any, place: Place) -> tuple[int, ...]:
    """Frames in which something is drawn, of a Labels layer with the axes of the series; else empty."""
    if not hasattr(layer, "selected_label") or layer.ndim != len(place.axis_labels) or "frame" not in place.axis_labels:
        return ()
    axis = place.axis_labels.index("frame")
    data = np.asarray(layer.data[0] if layer.multiscale else layer.data)
    found = data.any(axis=tuple(k for k in range(data.ndim) if k != axis))
    return tuple(int(frame) for frame in np.flatnonzero(found))


def _of_items(options: dict[str, Any], kept: NDArray[np.int64], count: int) -> dict[str, Any]:
    """Options with the values of the items that each of the carried ones is."""
    found = dict(options)
    for name in _EACH_ITEM:
        value = found.get(name)
        if isinstance(value, np.ndarray | list) and len(value) == count:
            found[name] = np.asarray(value)[kept] if isinstance(value, np.ndarray) else [value[k] for k in kept]
    return found


def _metadata(layer: Any, way: Way) -> dict[str, Any]:
    """What the layer remembers of its series, and where it was carried; its own key, as it is a layer like any other."""
    kept = {name: value for name, value in layer.metadata.items() if name != METADATA_KEY or "series" in value}
    return {**kept, "carried": {"layer": layer.name, "from": way.source, "to": way.target}}
