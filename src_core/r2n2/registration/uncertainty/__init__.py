"""How far the position that a registration gives may be from the true one: features, tables and a radius for every place."""

from r2n2.registration.uncertainty.estimate import (
    FrameUncertainty,
    UncertaintyEstimator,
    backward_pairs,
    certain,
    uncertainty_estimator,
)

__all__ = ["FrameUncertainty", "UncertaintyEstimator", "backward_pairs", "certain", "uncertainty_estimator"]
