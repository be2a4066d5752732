"""The sample series of File > Open Sample: a simulated breathing thorax with landmarks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_r2n2.layers.from_series import LayerData

__all__ = ["breathing_thorax"]


def breathing_thorax() -> list[LayerData]:
    """An image layer and a points layer; small, so that it opens in seconds."""
    from napari_r2n2.layers.from_series import landmarks_to_layer, series_to_layers
    from r2n2.simulation import ThoraxConfig, thorax_series

    simulated = thorax_series(ThoraxConfig(shape=(128, 128)))
    series = replace(simulated.series, name="breathing thorax")
    return [*series_to_layers([series]), landmarks_to_layer(simulated.landmarks, series)]
