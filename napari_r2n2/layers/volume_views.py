"""Image layers of registered volumes as lazy stacks: which part of what is computed for which indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.stacks import LazyParts
from napari_r2n2.layers.views import LENGTHS, MEASURES, View
from napari_r2n2.models.lengths import Lengths
from napari_r2n2.models.registration import FrameKey

if TYPE_CHECKING:
    from napari_r2n2.layers.place import Place
    from napari_r2n2.models.volume_fields import Part, VolumeFields

__all__ = ["volume_stack"]


def volume_stack(view: View, fields: VolumeFields, place: Place, squares: Callable[[], int]) -> LazyParts:
    """Data of an image layer (step,) frame, (channel,) z, y, x; the reference alone has no step axis.

    Parameters
    ----------
    squares
        Gives the number of fields of the checkerboard whenever it is drawn.
    """
    registration = fields.registration
    series = registration.series[0]
    by_channel = "channel" in place.axis_labels
    lead = (len(series),) if view is View.REFERENCE else (registration.step_count + 1, len(series))
    if view in MEASURES:
        compute = _measured(view, fields, Lengths.of(registration.series).value(1.0) if view in LENGTHS else 1.0)
        shape = tuple(n - 1 for n in series.grid.shape) if view is View.JACOBIAN else series.grid.shape
        item = (series.channels, *shape) if by_channel else shape

        def measured(step: int, frame: int, part: Part) -> NDArray[Any]:
            found = compute(FrameKey(0, frame), step, part)
            return np.broadcast_to(found, (series.channels, *found.shape)) if by_channel else found

        return LazyParts(lead, item, np.float32, measured, first=int(by_channel))

    def shown(*index: Any) -> NDArray[Any]:
        *_step, frame, part = index
        key = FrameKey(0, frame)
        if view is View.REFERENCE:
            found = fields.fixed(key, part)
        elif view is View.ALIGNED:
            found = fields.warped(key, index[0], part)
        else:
            found = fields.checkerboard(key, index[0], part, squares())
        if place.rgb:
            return np.moveaxis(found, 0, -1)
        return found if by_channel else found[0]

    shape = series.grid.shape
    item = (*shape, series.channels) if place.rgb else (series.channels, *shape) if by_channel else shape
    return LazyParts(lead, item, series.dtype, shown, first=int(by_channel))


def _measured(view: View, fields: VolumeFields, per_mm: float) -> Callable[[FrameKey, int, Part], NDArray[np.float32]]:
    compute = {
        View.MAGNITUDE: fields.magnitude,
        View.JACOBIAN: fields.jacobian,
        View.RESIDUAL: fields.residual,
        View.UNCERTAINTY: fields.uncertainty,
    }[view]
    return lambda key, step, part: compute(key, step, part) * np.float32(per_mm)
