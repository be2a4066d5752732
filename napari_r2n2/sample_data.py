"""The sample series of File > Open Sample: a simulated breathing thorax with landmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_r2n2.layers import LayerData

__all__ = ["breathing_thorax"]


def breathing_thorax() -> list[LayerData]:
    """The series of ``r2n2 simulate`` with its default settings, as an image layer and a points layer."""
    from napari_r2n2.layers import landmarks_to_layer, series_to_layers
    from r2n2.simulation import ThoraxConfig, thorax_series

    simulated = thorax_series(ThoraxConfig())
    return [*series_to_layers([simulated.series]), landmarks_to_layer(simulated.landmarks, simulated.series)]
