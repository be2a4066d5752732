"""Labels and Shapes layers as a label map on the reference of a slice position, whichever frame they are drawn in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.carry.axes import check_upright, index_along, pixel_roles, vector_roles
from napari_r2n2.layers.place import Place
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from napari_r2n2.models.registration import Registration

__all__ = ["regions_on_reference"]

Labels = NDArray[np.int64]


def regions_on_reference(layer: Any, registration: Registration, place: Place, frame: int | None, slice_index: int = 0) -> Labels:
    """(*shape) label map; of a Shapes layer every closed shape is a label, counted from 1.

    Parameters
    ----------
    frame
        In which it is drawn; None: on the reference.

    Raises
    ------
    ArgumentError
        If nothing is drawn there, the layer is turned, or the frame is not aligned yet.
    """
    check_upright(layer)
    reference = registration.references[slice_index]
    at = reference if frame is None else frame
    shape = registration.series[slice_index].grid.shape
    drawn = (
        _of_shapes(layer, place, shape, at)
        if hasattr(layer, "shape_type")
        else _of_labels(layer, place, registration, at, slice_index)
    )
    if not drawn.any():
        where = "on the reference" if frame is None else f"in frame {frame}"
        raise ArgumentError(f"layer {layer.name!r}: nothing is drawn {where}; draw there, or say which frame it belongs to")
    if at == reference:
        return drawn
    from r2n2.evaluation import warp_labels

    transforms = registration.transforms(slice_index)
    if at not in transforms:
        raise ArgumentError(
            f"frame {at} is not aligned yet, so what is drawn in it cannot be brought to the reference; align it first"
        )
    return np.asarray(warp_labels(drawn, transforms[at]))


def _of_labels(layer: Any, place: Place, registration: Registration, frame: int, slice_index: int) -> Labels:
    series = registration.series
    shape = series[slice_index].grid.shape
    data = layer.data[0] if layer.multiscale else layer.data
    roles = pixel_roles(layer, place, (len(series), len(series[0])), len(shape))
    plane = np.asarray(data[tuple({"frame": frame, "slice": slice_index}.get(role, 0) for role in roles)]).astype(np.int64)
    inside = np.ones(shape, bool)
    index = []
    for axis, count in enumerate(shape):
        back = axis - len(shape)
        world = place.translate[back] + place.scale[back] * np.arange(count)
        own = np.rint((world - layer.translate[back]) / layer.scale[back]).astype(np.int64)
        known = (own >= 0) & (own < plane.shape[axis])
        inside &= known.reshape([-1 if k == axis else 1 for k in range(len(shape))])
        index.append(own.clip(0, plane.shape[axis] - 1))
    return np.where(inside, plane[np.ix_(*index)], 0)


def _of_shapes(layer: Any, place: Place, shape: tuple[int, ...], frame: int) -> Labels:
    from napari.layers import Shapes

    if len(shape) != 2:
        raise ArgumentError(f"layer {layer.name!r}: shapes are flat, and volumes need a Labels layer; draw one")
    found = np.zeros(shape, np.int64)
    scale, translate = np.array(place.scale[-2:]), np.array(place.translate[-2:])
    for number, (vertices, kind) in enumerate(zip(layer.data, layer.shape_type, strict=True), start=1):
        roles = vector_roles(place, vertices.shape[1], 2)
        if "frame" in roles:
            column = roles.index("frame")
            if int(index_along(layer, place, "frame", column, vertices[:1, column], vertices.shape[1])[0]) != frame:
                continue
        if kind in ("line", "path"):
            continue
        world = vertices[:, -2:] * np.asarray(layer.scale)[-2:] + np.asarray(layer.translate)[-2:]
        # In pixels of the series: drawn by napari itself, so that an ellipse is what is seen.
        inside = Shapes([(world - translate) / scale], shape_type=kind).to_masks(mask_shape=shape)[0]
        found[np.asarray(inside, bool)] = number
    return found
