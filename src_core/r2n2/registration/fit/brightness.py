"""Smooth change of brightness taken out of residuals: signal that tissue gains or loses over a whole region is no motion.

With the additive part of the generalised dynamic image model (Negahdaripour, IEEE PAMI 1998) the difference of a warped and a fixed
image is r(x) = (what is not aligned) + b(x), b smooth. b is not fitted beside the Gaussians but eliminated: for every displacement
it is ``strength`` times the local mean G r of what counts, under a Gaussian window, and r - b is what is made small. As b follows
from r, the chain rule has a second part: with s the derivative of an objective by r - b, that by r is s - strength G's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.geometry import Grid
from r2n2.registration.measures import Measure
from r2n2.registration.measures.window import Window

__all__ = ["Projection", "SmoothBrightness", "brightness_of"]

_OF_INTENSITIES = "ssd"


@dataclass(frozen=True, eq=False)
class SmoothBrightness:
    """What is looked for on a working square.

    Parameters
    ----------
    strength
        Share in [0, 1] of the local mean that is taken for a change of brightness.
    window
        Of the local means.
    shape
        Of the square.
    """

    strength: float
    window: Window
    shape: tuple[int, ...]

    def over(self, weight: Tensor) -> Projection:
        """Where pixels count by ``weight`` (B, 1, P), at least 0."""
        return Projection(self, weight, self.means(weight).clamp_min(torch.finfo(weight.dtype).tiny))

    def means(self, values: Tensor) -> Tensor:
        """Under the window, (B, C, P) of (B, C, P)."""
        return self.window.means(values.unflatten(2, self.shape)).flatten(2)

    def transposed(self, values: Tensor) -> Tensor:
        """The transpose of ``means``."""
        return self.window.transposed(values.unflatten(2, self.shape)).flatten(2)


@dataclass(frozen=True, eq=False)
class Projection:
    """Takes a smooth change of brightness out of residuals, where pixels count by some weight."""

    brightness: SmoothBrightness
    weight: Tensor
    """(B, 1, P)"""
    reached: Tensor
    """(B, 1, P) its local means."""

    def left(self, residual: Tensor) -> Tensor:
        """What is left of residuals (B, C, P); 0 where nothing counts."""
        mean = self.brightness.means(residual * self.weight) / self.reached
        return (residual - self.brightness.strength * mean) * (self.weight > 0)

    def felt(self, left: Tensor, doubt: Tensor) -> Tensor:
        """What stands in for the residual in the derivative of the data term, (B, C, P).

        Half that derivative by ``left`` is weight / doubt times ``left``; by the residual itself, of which ``left`` is left, it is
        weight / doubt times what is returned.

        Parameters
        ----------
        left
            (B, C, P)
        doubt
            (B, 1, P), at least 1.
        """
        spread = self.brightness.transposed(left * (self.weight / (doubt * self.reached)))
        return left - self.brightness.strength * doubt * spread


def brightness_of(config: FitConfig, measure: Measure, grid: Grid, like: Tensor) -> SmoothBrightness | None:
    """As the settings ask for on a working square; None where nothing is taken out, or no intensities are compared.

    Nothing is on the coarsest square: where a frame is still far from aligned, what is smooth in the difference shows the way.
    """
    if not config.brightness or measure.name != _OF_INTENSITIES or max(grid.shape) == config.sizes[0] < config.sizes[-1]:
        return None
    return SmoothBrightness(config.brightness, Window.build(grid, config.brightness_window, like), grid.shape)
