"""Simulated series and pairs whose motion is known exactly: input of the demonstration, truth of tests, data for training."""

from r2n2.simulation.gaussian_motion import random_gaussian_motion, synthetic_pair
from r2n2.simulation.material import Label
from r2n2.simulation.settings import ThoraxConfig
from r2n2.simulation.thorax import SimulatedSeries, thorax_series

__all__ = ["Label", "SimulatedSeries", "ThoraxConfig", "random_gaussian_motion", "synthetic_pair", "thorax_series"]
