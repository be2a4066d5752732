"""Labels and Shapes layers as masks of a series' reference, on its pixels, and the masks of a result as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.place import Place
from r2n2.errors import ArgumentError
from r2n2.mask import Mask, Masks
from r2n2.series import ImageSeries

__all__ = ["layer_to_masks", "masks_to_layer"]


def layer_to_masks(layer: Any, place: Place, series: Sequence[ImageSeries], chosen: Sequence[int]) -> tuple[Masks, ...]:
    """The masks that a person drew, one a slice position: every pixel that is labelled, or inside a shape, counts.

    What is drawn on several frames counts together; a layer without slices counts on every slice position.

    Parameters
    ----------
    layer
        Labels or Shapes layer, upright.
    place
        Where the layer of the series lies.
    series
        One item a slice position.
    chosen
        The slice positions that are meant.

    Raises
    ------
    ArgumentError
        If nothing is drawn on a chosen slice position.
    """
    shape = series[0].grid.shape
    axes = place.axis_labels
    drawn = _of_shapes(layer, place, shape) if hasattr(layer, "shape_type") else _of_labels(layer, place, shape)
    masks = []
    for index in range(len(series)):
        own = _of_slice(drawn, axes, index if len(series) > 1 else None)
        if own.any():
            masks.append(Masks(Mask.of(own[None], f"layer {layer.name!r}", "", (f"layer {layer.name!r}",))))
        elif index in chosen:
            where = f" on slice position {index}" if len(series) > 1 else " on the images"
            raise ArgumentError(
                f"layer {layer.name!r}: nothing is drawn{where}, so nothing would count; draw there, or choose none"
            )
        else:
            masks.append(Masks())
    return tuple(masks)


def _of_slice(drawn: list[tuple[dict[int, int], NDArray[np.bool_]]], axes: tuple[str, ...], index: int | None) -> NDArray[np.bool_]:
    """What is drawn on a slice position, of every frame together."""
    slices = axes.index("slice") - len(axes) if "slice" in axes else None
    found = np.zeros(drawn[0][1].shape, np.bool_) if drawn else np.zeros((1, 1), np.bool_)
    for at, plane in drawn:
        if index is None or slices is None or at.get(slices, index) == index:
            found = found | plane
    return found


def _of_labels(layer: Any, place: Place, shape: tuple[int, ...]) -> list[tuple[dict[int, int], NDArray[np.bool_]]]:
    """(index of the series along its axes, counted from the last; plane) of every plane on which something is drawn."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    _check_axes(layer, data.ndim, place)
    leading = data.shape[: -place.ndim]
    nearest = [_nearest(layer, place, axis, n) for axis, n in zip(range(-place.ndim, 0), shape, strict=True)]
    planes: list[tuple[dict[int, int], NDArray[np.bool_]]] = []
    for index in np.ndindex(*leading):
        plane = np.asarray(data[index]) != 0
        if plane.any():
            axes = [k - len(leading) - place.ndim for k in range(len(leading))]
            at = {axis: _index_in(layer, place, axis, index[k]) for k, axis in enumerate(axes)}
            planes.append((at, _picked(plane, nearest)))
    return planes or [({}, np.zeros(shape, np.bool_))]


def _check_axes(layer: Any, ndim: int, place: Place) -> None:
    """A mask of volumes says of every slice what counts."""
    if ndim < place.ndim:
        raise ArgumentError(
            f"layer {layer.name!r}: has {ndim} axes, a mask of volumes needs z, y and x; draw on a layer of the volume"
        )


def _nearest(layer: Any, place: Place, axis: int, count: int) -> NDArray[np.int64]:
    """Of every pixel of the series along an axis the nearest pixel of the layer, maybe outside of it."""
    world = place.translate[axis] + place.scale[axis] * np.arange(count)
    return np.rint((world - layer.translate[axis]) / layer.scale[axis]).astype(np.int64)


def _picked(plane: NDArray[np.bool_], nearest: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    picked = plane[np.ix_(*(at.clip(0, n - 1) for at, n in zip(nearest, plane.shape, strict=True)))]
    for axis, (at, n) in enumerate(zip(nearest, plane.shape, strict=True)):
        picked = picked & ((at >= 0) & (at < n)).reshape([-1 if k == axis else 1 for k in range(plane.ndim)])
    return np.asarray(picked)


def _index_in(layer: Any, place: Place, axis: int, index: float) -> int:
    """Where an index of the layer lies along an axis of the series; as it is where the series has no such axis."""
    if -axis > len(place.scale):
        return round(index)
    world = layer.translate[axis] + layer.scale[axis] * index
    return round(float((world - place.translate[axis]) / place.scale[axis]))


def _of_shapes(layer: Any, place: Place, shape: tuple[int, ...]) -> list[tuple[dict[int, int], NDArray[np.bool_]]]:
    """As ``_of_labels``, of shapes filled, those of volumes on the slice they are drawn on; lines have no inside."""
    from napari.layers import Shapes

    _check_axes(layer, layer.ndim, place)
    n = place.ndim
    scale, translate = np.array(place.scale[-n:]), np.array(place.translate[-n:])
    planes: list[tuple[dict[int, int], NDArray[np.bool_]]] = []
    for vertices, kind in zip(layer.data, layer.shape_type, strict=True):
        if kind in ("line", "path"):
            continue
        world = vertices[:, -n:] * np.asarray(layer.scale)[-n:] + np.asarray(layer.translate)[-n:]
        points = (world - translate) / scale
        # The slice of a volume may lie across any of its axes: the one along which the shape does not reach.
        across = int(np.ptp(points, axis=0).argmin())
        seen = [axis for axis in range(n) if n == 2 or axis != across]
        # In pixels of the series: drawn by napari itself, so that an ellipse is what is seen.
        drawn = Shapes([points[:, seen]], shape_type=kind).to_masks(mask_shape=[shape[axis] for axis in seen])[0]
        plane = np.zeros(shape, np.bool_)
        if n == 2:
            plane[:] = drawn
        elif 0 <= (slice_index := round(float(points[0, across]))) < shape[across]:
            plane[tuple(slice_index if axis == across else slice(None) for axis in range(n))] = drawn
        at = {axis: _index_in(layer, place, axis, vertices[0, axis]) for axis in range(-vertices.shape[1], -n)}
        planes.append((at, plane))
    return planes or [({}, np.zeros(shape, np.bool_))]


def masks_to_layer(masks: Sequence[Masks], place: Place) -> tuple[NDArray[np.uint8], dict[str, Any]] | None:
    """Data and options of a Labels layer that shows what counted of the reference; None where all of it did.

    Parameters
    ----------
    masks
        One item a slice position.
    place
        Where the layer of the series lies.
    """
    shapes = {mask.fixed.shape for mask in masks if mask.fixed is not None}
    if len(shapes) != 1:
        return None
    empty = np.zeros(shapes.pop(), np.bool_)
    planes = [empty if mask.fixed is None else mask.fixed.inside() for mask in masks]
    several = len(planes) > 1
    # Over every frame, so that it is seen whatever the slider says.
    data = np.stack(planes).astype(np.uint8)[:, None] if several else planes[0].astype(np.uint8)
    ndim = data.ndim
    options = {
        "name": f"{place.name} mask",
        "opacity": 0.3,
        "scale": place.scale[-ndim:],
        "translate": place.translate[-ndim:],
        "units": place.units[-ndim:],
        "axis_labels": tuple("time" if axis == "frame" else axis for axis in place.axis_labels[-ndim:]),
    }
    return data, options
