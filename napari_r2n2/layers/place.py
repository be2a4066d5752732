"""Where the layer of a series lies and how it is shown, which every layer of its registration takes over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["METADATA_KEY", "Place", "shown_labels"]

METADATA_KEY = "napari-r2n2"
"""Key in a layer's metadata of what the layer itself cannot say; a plain dictionary that fits JSON."""


def shown_labels(axes: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of napari's sliders for the axes of a series: what counts frames here runs along time there."""
    return tuple("time" if axis == "frame" else axis for axis in axes)


@dataclass(frozen=True)
class Place:
    """Where the layer of a series lies and how it is shown: what every layer of its registration takes over.

    Parameters
    ----------
    name
        Of the layer.
    axis_labels, units, scale, translate
        One item an axis: (slice,) frame, (channel,) y, x; of volumes frame, (channel,) z, y, x.
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
        """Of an Image layer whose axes have these names, the layer's own or those of ``axes_of``."""
        display: dict[str, Any] = {}
        if not layer.rgb:
            limits = tuple(float(limit) for limit in layer.contrast_limits)
            display = {"colormap": layer.colormap.name, "contrast_limits": limits, "gamma": layer.gamma}
        units = tuple(str(unit) for unit in layer.units)
        axes = tuple("frame" if axis == "time" else axis for axis in axes)
        return cls(layer.name, axes, units, tuple(layer.scale.tolist()), tuple(layer.translate.tolist()), bool(layer.rgb), display)

    @property
    def ndim(self) -> int:
        """Number of spatial axes: 3 of volumes."""
        return 3 if self.axis_labels[-3] == "z" else 2

    @property
    def plane(self) -> tuple[float, float]:
        """Length of a pixel along y and x."""
        return self.scale[-2], self.scale[-1]

    def longest_side(self, shape: tuple[int, ...]) -> float:
        """Of an image or volume of so many pixels, in the plane's unit."""
        return max(n * step for n, step in zip(shape, self.scale[-self.ndim :], strict=True))

    def stack_options(self, what: str, *, steps: bool = True) -> dict[str, Any]:
        """Options of an image layer with the axes of the series, led by the step axis or not."""
        lead: tuple[str, ...] = ("step",) if steps else ()
        return {
            "name": f"{self.name} {what}",
            "axis_labels": (*lead, *shown_labels(self.axis_labels)),
            "units": (*("pixel" for _ in lead), *self.units),
            "scale": (*(1.0 for _ in lead), *self.scale),
            "translate": (*(0.0 for _ in lead), *self.translate),
        }

    def plane_options(self, what: str) -> dict[str, Any]:
        """Options of a layer (z,) y, x that is drawn in steps of ``drawn_unit``, not in pixels, so that lines are equally thick."""
        return {
            "name": f"{self.name} {what}",
            "axis_labels": self.axis_labels[-self.ndim :],
            "units": self.units[-self.ndim :],
            "scale": (self.drawn_unit,) * self.ndim,
            "translate": self.translate[-self.ndim :],
        }

    @property
    def drawn_unit(self) -> float:
        """Length of a step of layers that are drawn: 1, or of volumes that of the longest side of a voxel.

        napari's sliders take the smallest step of all layers: what is drawn must not be what decides.
        """
        return 1.0 if self.ndim == 2 else max(self.scale[-3:])
