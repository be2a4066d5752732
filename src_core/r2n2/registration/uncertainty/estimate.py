"""How good the registration of each frame of a batch is: a radius at every place, from the pairs and their transforms alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.config import FitConfig, RegistrationConfig
from r2n2.geometry import Grid
from r2n2.registration.base import Pairs
from r2n2.registration.uncertainty.features import Features, features_of, frame_features
from r2n2.registration.uncertainty.tables import EDGES, MethodTable, method_key, shipped_tables
from r2n2.registration.uncertainty.verdict import reasons_for_uncertainty
from r2n2.transform import GaussianSequence, Transform, resample

__all__ = ["FrameUncertainty", "UncertaintyEstimator", "backward_pairs", "certain", "uncertainty_estimator"]

_MEDIAN, _MOST = 0.5, 0.95
_WITHOUT_GAUSSIANS = "bspline"
_STANDS_IN = "fit"
# Settings that change no result that matters, or choose the table.
_NO_MATTER = frozenset(
    {
        "method",
        "refine",
        "reference",
        "device",
        "batch_size",
        "precision",
        "uncertainty",
        "volume_steps",
        "volume_fit",
        "guide_strength_mm",
    }
)
_OF_NETWORK = frozenset({"weights", "network_share", "stop_early", "network", "stopping"})
_OF_OTHER_METHODS = {
    "r2n2": frozenset({"bspline"}),
    "fit": _OF_NETWORK | {"bspline"},
    "bspline": _OF_NETWORK | {"steps", "fit"},
}


@dataclass(frozen=True, eq=False)
class FrameUncertainty:
    """How far the positions that a transform gives may be from the true ones.

    Parameters
    ----------
    radius_mm
        (*lattice.shape): with 90 % probability a position is not farther off.
    lattice
        A coarse lattice in the NORMALISED space of the frame.
    median_mm, q95_mm
        The radius that half and 95 % of what the reference shows do not exceed; local contrast decides how much a place counts.
    reasons
        Why the frame is doubtful, each the end of "because ..."; none where all looks well.
    uncalibrated
        Why the probability is not known to hold; "" where it is.
    """

    radius_mm: Tensor
    lattice: Grid
    median_mm: float
    q95_mm: float
    reasons: tuple[str, ...] = ()
    uncalibrated: str = ""
    judged: bool = True
    """Whether the radius was asked for reasons: not where frames were compared by a measure that no table is for."""

    def on(self, grid: Grid) -> Tensor:
        """The radius in mm at every pixel, (*grid.shape) float32, linear between places of the lattice."""
        return resample(self.radius_mm[None, None], self.lattice, grid).image[0, 0]


@dataclass(frozen=True)
class UncertaintyEstimator:
    """Estimates by the table of one method.

    Parameters
    ----------
    table
        Of the features of one way.
    back_table
        With the disagreement of both ways; None where there is no such table.
    plain_table
        Of another kind of transform: for those that are no Gaussians though the method's usually are.
    fit
        Settings of the objective that Gaussians were fitted to.
    uncalibrated
        Why the tables do not hold for these settings; "" where they do.
    both_ways
        Whether each pair is to be registered back as well.
    """

    table: MethodTable
    back_table: MethodTable | None
    plain_table: MethodTable
    fit: FitConfig
    uncalibrated: str = ""
    both_ways: bool = False
    by_intensities: bool = True
    """Whether the frames were compared by their intensities: else their edges are looked at."""
    judges: bool = True
    """Whether the radius gives reasons for doubt: not where frames were compared by a measure that no table is for."""
    of_gaussians: bool = True
    """Whether the method's results are sums of Gaussians."""

    def estimate(
        self, pairs: Pairs, transforms: Sequence[Transform], backward: Sequence[Transform] = ()
    ) -> tuple[FrameUncertainty, ...]:
        """One a pair.

        Parameters
        ----------
        transforms
            From the fixed into the moving image of each pair.
        backward
            Of ``backward_pairs``, from the moving into the fixed image; or none.
        """
        with torch.inference_mode():
            features = features_of(pairs, transforms, self.fit, backward, by_intensities=self.by_intensities)
            strange = self.of_gaussians and not all(isinstance(transform, GaussianSequence) for transform in transforms)
            table = self.plain_table if strange else self._table(features)
            radius = table.radius_of(features.values)
            distances = table.distance(frame_features(features)).tolist()
            judged = radius if self.judges else torch.zeros_like(radius)
            reasons = reasons_for_uncertainty(judged, features, pairs.grid)
        unit_mm, found = pairs.grid.unit_mm, []
        for k in range(len(pairs)):
            median, most = (_quantile(radius[k], features.counts[k], share) * unit_mm for share in (_MEDIAN, _MOST))
            why_not = self._uncalibrated(distances[k], pairs.grid, table, strange=strange)
            # A copy, and not of inference mode: it does not keep the batch, and autograd may use it.
            radius_mm = (radius[k] * unit_mm).cpu().clone()
            found.append(FrameUncertainty(radius_mm, features.lattice, median, most, reasons[k], why_not, self.judges))
        return tuple(found)

    def _table(self, features: Features) -> MethodTable:
        back = self.back_table
        return back if back is not None and set(back.features) <= set(features.values) else self.table

    def _uncalibrated(self, distance: float, grid: Grid, table: MethodTable, *, strange: bool) -> str:
        if self.uncalibrated:
            return self.uncalibrated
        if strange:
            return "the result is no sum of Gaussians, as it was in the calibration"
        if grid.ndim != 2:
            return "the radius is calibrated on 2D frames"
        if not distance <= table.farthest:
            return "the frame and its result are unlike those of the calibration"
        return ""


def certain(grid: Grid) -> FrameUncertainty:
    """Of the reference itself, whose positions are known."""
    lattice = grid.resized((2,) * grid.ndim)
    return FrameUncertainty(torch.zeros(lattice.shape), lattice, 0.0, 0.0)


def backward_pairs(pairs: Pairs) -> Pairs:
    """The same pairs the other way round."""
    return Pairs(
        pairs.moving, pairs.fixed, pairs.moving_valid, pairs.fixed_valid, pairs.grid, pairs.moving_weight, pairs.fixed_weight
    )


def uncertainty_estimator(config: RegistrationConfig) -> UncertaintyEstimator | None:
    """What estimates for results under these settings; None where that is switched off."""
    if config.uncertainty == "off":
        return None
    by_intensities = config.similarity in ("auto", "ssd")
    if not by_intensities and config.method == "r2n2":
        config = config.model_copy(update={"method": "fit"})  # which is what then runs
    tables, key = shipped_tables().methods, method_key(config)
    other = tables[_STANDS_IN]
    missing = "" if key in tables else f"no table was calibrated for {key}; that of {_STANDS_IN} stands in"
    return UncertaintyEstimator(
        tables.get(key, other),
        tables.get(f"{key}+back"),
        tables.get(_WITHOUT_GAUSSIANS, other),
        config.fit,
        "; ".join(why for why in (missing, _other_settings(config)) if why),
        both_ways=config.uncertainty == "full",
        by_intensities=by_intensities,
        judges=by_intensities or (key == EDGES and config.similarity == EDGES),
        of_gaussians=config.method != _WITHOUT_GAUSSIANS,
    )


def _other_settings(config: RegistrationConfig) -> str:
    """Which settings are not those of the calibration, in words; a setting that is not listed above counts as one that matters."""
    # What auto chooses for a series is as usual as auto.
    usual_measures = ("ssd", EDGES) if method_key(config) == EDGES else ("ssd",)
    similarity = "auto" if config.similarity in usual_measures else config.similarity
    config = config.model_copy(update={"similarity": similarity})
    usual = RegistrationConfig(method=config.method, refine=config.refine)
    ignored = _NO_MATTER | _OF_OTHER_METHODS[config.method]
    changed = [name for name in type(config).model_fields if name not in ignored and getattr(config, name) != getattr(usual, name)]
    return f"the radius is calibrated for the usual {', '.join(changed)}" if changed else ""


def _quantile(radius: Tensor, counts: Tensor, share: float) -> float:
    """Radius that this share of what counts does not exceed."""
    values, order = radius.flatten().sort()
    reached = counts.flatten()[order].cumsum(0)
    place = int(torch.searchsorted(reached, reached[-1] * share))
    return float(values[min(place, len(values) - 1)])
