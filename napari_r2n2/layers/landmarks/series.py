"""The series that landmarks are placed in: grids and frames of an image layer, as its layer gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_r2n2.layers.to_series import AXES_CHOICES, axes_of, layer_to_series
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from r2n2.series import ImageSeries

__all__ = ["geometry_of", "is_series"]


def geometry_of(layer: Any) -> tuple[ImageSeries, ...]:
    """One series for each slice position of an image layer; no pixel of a lazy layer is read.

    Raises
    ------
    ArgumentError
        If the layer has other axes than (frame, y, x), (slice, frame, y, x) or (frame, z, y, x).
    """
    labels = tuple(layer.axis_labels)
    axes = axes_of(layer) or AXES_CHOICES[0]
    if "channel" in axes or "step" in labels:
        raise ArgumentError(
            f"layer {layer.name!r}: landmarks need axes (frame, y, x), (slice, frame, y, x) or (frame, z, y, x), got {labels}; "
            "choose another layer"
        )
    return layer_to_series(layer, axes)


def is_series(layer: Any) -> bool:
    """Whether an image layer can carry landmarks."""
    try:
        return bool(geometry_of(layer))
    except ArgumentError:
        return False
