"""A canvas of water and fat on which tissue after tissue is painted, the later over the earlier."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from r2n2.simulation.texture import FloatArray, Raster

__all__ = ["Blood", "Canvas"]


@dataclass
class Blood:
    """Where blood and heart are."""

    amount: FloatArray
    """Brightness that flow changes."""
    covered: FloatArray
    """Coverage by heart and great vessels: no lung there."""
    heart: FloatArray
    """Coverage by the heart."""


@dataclass
class Canvas:
    """Water and fat signal (H, W) relative to blood; 0 is air."""

    raster: Raster
    water: FloatArray
    fat: FloatArray
    body: FloatArray
    liver: FloatArray
    airways: list[FloatArray] = field(default_factory=list)

    @classmethod
    def empty(cls, raster: Raster) -> Canvas:
        """Air everywhere."""
        water, fat, body, liver = (np.zeros(raster.shape) for _ in range(4))
        return cls(raster, water, fat, body, liver)

    def paint(self, cover: FloatArray, *, water: FloatArray | float, fat: FloatArray | float) -> None:
        """Put tissue where ``cover`` in [0, 1] is, over what was there."""
        self.water += cover * (water - self.water)
        self.fat += cover * (fat - self.fat)

    def paint_airways(self) -> None:
        """Put the airways over what is there."""
        for cover in self.airways:
            self.paint(self.raster.blur(cover, 1.0), water=0.07, fat=0.0)
