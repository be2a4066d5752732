"""Simulated series and pairs whose motion is known exactly: input of the demonstration, truth of tests, data for training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2n2.simulation.contrast import ContrastKind
    from r2n2.simulation.engine import PairEngine, SimulatedBatch
    from r2n2.simulation.engine_config import AppearanceConfig, EngineConfig, MotionConfig
    from r2n2.simulation.gaussian_motion import random_gaussian_motion, synthetic_pair
    from r2n2.simulation.material import Label
    from r2n2.simulation.people import thorax_pairs
    from r2n2.simulation.person.anatomy import PersonLabel
    from r2n2.simulation.person.settings import PersonConfig
    from r2n2.simulation.person.slices import SimulatedSlice, coronal_slice
    from r2n2.simulation.person.volume import SimulatedVolume, person_series
    from r2n2.simulation.settings import ThoraxConfig
    from r2n2.simulation.slices import RealPair, RealSlice
    from r2n2.simulation.thorax import SimulatedSeries, thorax_series

__all__ = [
    "AppearanceConfig",
    "ContrastKind",
    "EngineConfig",
    "Label",
    "MotionConfig",
    "PairEngine",
    "PersonConfig",
    "PersonLabel",
    "RealPair",
    "RealSlice",
    "SimulatedBatch",
    "SimulatedSeries",
    "SimulatedSlice",
    "SimulatedVolume",
    "ThoraxConfig",
    "coronal_slice",
    "person_series",
    "random_gaussian_motion",
    "synthetic_pair",
    "thorax_pairs",
    "thorax_series",
]

# Found when asked for: the engine must import where the thorax's drawing tools are not installed.
_PLACES = {
    "AppearanceConfig": "engine_config",
    "ContrastKind": "contrast",
    "EngineConfig": "engine_config",
    "Label": "material",
    "MotionConfig": "engine_config",
    "PairEngine": "engine",
    "PersonConfig": "person.settings",
    "PersonLabel": "person.anatomy",
    "RealPair": "slices",
    "RealSlice": "slices",
    "SimulatedBatch": "engine",
    "SimulatedSeries": "thorax",
    "SimulatedSlice": "person.slices",
    "SimulatedVolume": "person.volume",
    "ThoraxConfig": "settings",
    "coronal_slice": "person.slices",
    "person_series": "person.volume",
    "random_gaussian_motion": "gaussian_motion",
    "synthetic_pair": "gaussian_motion",
    "thorax_pairs": "people",
    "thorax_series": "thorax",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"r2n2.simulation.{_PLACES[name]}"), name)
