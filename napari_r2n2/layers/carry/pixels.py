"""Image and Labels layers carried along: every plane resampled once, labels by their nearest pixel."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.carry.axes import frame_options, pixel_roles, to_index
from napari_r2n2.layers.carry.way import CarryProgress, Way
from napari_r2n2.layers.from_series import LARGE_BYTES
from napari_r2n2.layers.place import Place
from napari_r2n2.layers.stacks import LazyStack
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from napari_r2n2.models.registration import Registration
    from r2n2.results.carrier import Carrier
    from r2n2.results.placing import Placed
    from r2n2.series import ImageSeries
    from r2n2.transform import Transform

__all__ = ["carry_pixels"]


class _Axis(NamedTuple):
    """A leading axis of the carried layer, and which one of the layer it was; None for that of time where there was none."""

    role: str
    length: int
    own: int | None


def carry_pixels(
    layer: Any, place: Place, registration: Registration, carriers: Sequence[Carrier], way: Way, *, labels: bool
) -> Generator[CarryProgress, None, tuple[Any, dict[str, Any]]]:
    """Data of the carried layer and the options of its axes.

    Planes are computed one by one; of an image too large to be kept, when they are looked at.

    Raises
    ------
    ArgumentError
        If the layer has no frames and each should hold its own, or its axes are not those of the series.
    """
    series = registration.series
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    rgb = bool(getattr(layer, "rgb", False))
    roles = pixel_roles(layer, place, (len(series), len(series[0])), series[0].grid.ndim)
    if way.source == "every" and "frame" not in roles:
        raise ArgumentError(f"layer {layer.name!r}: has no frames of its own; say which frame it belongs to")
    item = data.shape[len(roles) :]
    axes = _leading(roles, data.shape[: len(roles)], way, len(series[0]))
    placed = _placed(layer, place, series[0], item)

    def plane(*index: int) -> NDArray[Any]:
        at = {axis.role: n for axis, n in zip(axes, index, strict=True)}
        where, frame = at.get("slice", 0), at.get("frame")
        own = frame if way.source == "every" else registration.references[where] if way.source == "reference" else way.source
        taken = [own if role == "frame" else 0 for role in roles]
        for axis, n in zip(axes, index, strict=True):
            if axis.own is not None:
                taken[axis.own] = n
        image = np.asarray(data[tuple(taken)])
        source, target = None if way.source == "reference" else own, None if way.target == "reference" else frame
        if source == target:
            return image
        return _warped(image, placed.transform(carriers[where].transform(source, target)), rgb=rgb, labels=labels)

    stack = LazyStack(tuple(axis.length for axis in axes), item, data.dtype, plane)
    options = _axis_options(layer, axes, place, len(roles))
    if not labels and stack.size * stack.dtype.itemsize > LARGE_BYTES:
        return stack, options
    made = np.empty(stack.shape, stack.dtype)
    # Channels of a frame one after the other: its inverse is computed once.
    moves = [k for k, axis in enumerate(axes) if axis.role != "other"]
    order = sorted(np.ndindex(*stack.leading), key=lambda index: [index[k] for k in moves])
    for count, index in enumerate(order, start=1):
        made[index] = plane(*index)
        yield CarryProgress(count / len(order))
    return made, options


def _leading(roles: tuple[str, ...], lead: tuple[int, ...], way: Way, frames: int) -> list[_Axis]:
    """The leading axes of what comes out."""
    axes = [_Axis(role, length, own) for own, (role, length) in enumerate(zip(roles, lead, strict=True))]
    if way.source == "every":
        return axes
    axes = [axis for axis in axes if axis.role != "frame"]
    if way.target == "every":
        first = 1 if axes and axes[0].role == "slice" else 0
        # An axis of length 1, as of the time of a single frame, becomes that of all.
        single = next((axis for axis in axes[first:] if axis.role == "other" and axis.length == 1), None)
        if single is not None:
            axes.remove(single)
        axes.insert(first, _Axis("frame", frames, None))
    return axes


def _axis_options(layer: Any, axes: Sequence[_Axis], place: Place, own_axes: int) -> dict[str, Any]:
    """The layer's own axes, that of time as of the series where the layer has none."""
    time = frame_options(place)
    found: dict[str, Any] = {}
    for what, new in time.items():
        values = [str(value) if what == "units" else value for value in getattr(layer, what)]
        lead = [new if axis.own is None else values[axis.own] for axis in axes]
        found[what] = (*lead, *values[own_axes:])
    return found


def _placed(layer: Any, place: Place, series: ImageSeries, item: tuple[int, ...]) -> Placed:
    """How the layer's pixels lie on those of the series."""
    from r2n2.geometry import Grid
    from r2n2.results.placing import Placed
    from r2n2.series import ImageSeries

    spatial = series.grid.ndim
    shape = item[:spatial]
    affine = to_index(layer, place, series.grid.shape, shape)
    spacing = tuple(abs(float(step)) for step in np.asarray(layer.scale)[-spatial:])
    grid = series.grid if affine is None else Grid(shape, spacing)
    return Placed(ImageSeries(np.broadcast_to(np.zeros((), np.uint8), (1, 1, *shape)), grid), to_index=affine)


def _warped(image: NDArray[Any], transform: Transform, *, rgb: bool, labels: bool) -> NDArray[Any]:
    from r2n2.evaluation import warp_labels
    from r2n2.registration import warp_pixels

    if labels:
        return warp_labels(image, transform)
    if rgb:
        return np.moveaxis(warp_pixels(np.moveaxis(image, -1, 0), transform), 0, -1)
    return np.asarray(warp_pixels(image[None], transform)[0])
