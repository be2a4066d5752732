"""Image layers of a registration as lazy stacks with their options: what is computed for which indices, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.place import METADATA_KEY, Place
from napari_r2n2.layers.stacks import LazyStack
from napari_r2n2.layers.views import IMAGES, INTENSITIES, LENGTHS, MEASURES, View
from napari_r2n2.layers.volume_views import volume_stack
from napari_r2n2.models.lengths import Lengths
from napari_r2n2.models.registration import FrameKey

if TYPE_CHECKING:
    from napari_r2n2.models.fields import FrameFields
    from napari_r2n2.models.registration import Registration

__all__ = ["IMAGES", "INTENSITIES", "MEASURES", "View", "image_view"]


def image_view(view: View, fields: FrameFields, place: Place, squares: Callable[[], int]) -> tuple[LazyStack, dict[str, Any]]:
    """Data and options of an image layer, (step, ...) first; the reference alone has no step axis.

    Parameters
    ----------
    squares
        Gives the number of fields of the checkerboard whenever it is drawn.
    """
    registration = fields.registration
    series = registration.series[0]
    several = "slice" in place.axis_labels
    lead = (*([len(registration.series)] if several else []), len(series))

    def key(indices: tuple[int, ...]) -> FrameKey:
        return FrameKey(*indices) if several else FrameKey(0, *indices)

    lengths = Lengths.of(registration.series)
    name = f"{view.value} ({lengths.name})" if view in LENGTHS else view.value
    options = place.stack_options(name, steps=view is not View.REFERENCE)
    options["metadata"] = {METADATA_KEY: {"registration": _provenance(registration)}}
    if view is View.JACOBIAN:
        # It lies between the pixels.
        half = np.array(place.scale[-place.ndim :]) / 2
        shifted = np.array(options["translate"][-place.ndim :]) + half
        options["translate"] = (*options["translate"][: -place.ndim], *shifted.tolist())
    options |= _display(view, registration, place) if view in MEASURES else {"rgb": place.rgb, **place.display}
    if place.ndim == 3:
        return volume_stack(view, fields.volumes, place, squares), options
    if view in MEASURES:
        compute = {
            View.MAGNITUDE: fields.magnitude,
            View.JACOBIAN: fields.jacobian,
            View.RESIDUAL: fields.residual,
            View.UNCERTAINTY: fields.uncertainty,
        }[view]
        per_mm = np.float32(lengths.value(1.0) if view in LENGTHS else 1.0)
        plane = series.grid.shape if view is not View.JACOBIAN else tuple(n - 1 for n in series.grid.shape)
        item = (series.channels, *plane) if "channel" in place.axis_labels else plane

        def measured(step: int, *rest: int) -> NDArray[Any]:
            return np.broadcast_to(compute(key(rest), step) * per_mm, item)

        return LazyStack((registration.step_count + 1, *lead), item, np.float32, measured), options

    item = _item(series.channels, series.grid.shape, rgb=place.rgb)
    if view is View.REFERENCE:
        return LazyStack(lead, item, series.dtype, lambda *rest: fields.fixed(key(rest))), options

    def image(step: int, *rest: int) -> NDArray[Any]:
        if view is View.ALIGNED:
            return fields.warped(key(rest), step)
        return fields.checkerboard(key(rest), step, squares())

    return LazyStack((registration.step_count + 1, *lead), item, series.dtype, image), options


def _item(channels: int, shape: tuple[int, ...], *, rgb: bool) -> tuple[int, ...]:
    """Axes of one image as napari shows it."""
    if rgb:
        return (*shape, channels)
    return shape if channels == 1 else (channels, *shape)


def _display(view: View, registration: Registration, place: Place) -> dict[str, Any]:
    """Colours and limits of a measured image: limits symmetric about what is neutral."""
    if view is View.MAGNITUDE:
        longest = max((result.max_displacement_mm for result in registration.results.values()), default=0.0)
        most = Lengths.of(registration.series).value(max(longest, 1e-6))
        return {"colormap": "inferno", "contrast_limits": (0.0, most)}
    if view is View.UNCERTAINTY:
        known = (result.uncertainty.q95_mm for result in registration.results.values() if result.uncertainty is not None)
        most = Lengths.of(registration.series).value(max([*known, 1e-6]))
        return {"colormap": "inferno", "contrast_limits": (0.0, most)}
    if view is View.JACOBIAN:
        return {"colormap": "PiYG", "contrast_limits": (0.5, 1.5)}
    low, high = place.display.get("contrast_limits", (0.0, 255.0))
    return {"colormap": "RdBu", "contrast_limits": (-(high - low) / 4, (high - low) / 4)}


def _provenance(registration: Registration) -> dict[str, Any]:
    return {} if registration.config is None else registration.config.model_dump(mode="json")
