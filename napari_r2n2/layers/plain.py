"""The aligned series as a plain image layer with the axes of its source, which napari itself can save."""

from __future__ import annotations

from typing import Any

from napari_r2n2.layers.from_series import LARGE_BYTES
from napari_r2n2.layers.image_views import View, image_view
from napari_r2n2.layers.place import Place
from napari_r2n2.layers.stacks import LazyStack
from napari_r2n2.models.fields import FrameFields
from napari_r2n2.models.registration import Registration

__all__ = ["aligned_layer"]


def aligned_layer(registration: Registration, place: Place) -> tuple[Any, dict[str, Any]]:
    """Data and options of an image layer (slice,) time, (channel,) y, x: every frame after its last step, as it is now."""
    steps, options = image_view(View.ALIGNED, FrameFields(registration), place, lambda: 1)
    last, lead = registration.step_count, steps.leading[1:]
    stack = LazyStack(lead, steps.shape[len(lead) + 1 :], steps.dtype, lambda *index: steps[(last, *index)])
    for what in ("axis_labels", "units", "scale", "translate"):
        options[what] = options[what][1:]
    options["name"] = f"{place.name} aligned, plain"
    large = stack.size * stack.dtype.itemsize > LARGE_BYTES
    return (stack if large else stack[...]), options
