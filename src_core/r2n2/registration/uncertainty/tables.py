"""From features to a radius: a monotone regression and a conformal quantile, as tables that ship with the package.

The score of a place is a sum of rising, piecewise linear curves, one of each feature's logarithm; the radius of a probability is a
rising curve of the score. Both come from series whose motion is known: see the card beside the file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import itertools
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from r2n2.config import Config, RegistrationConfig

__all__ = ["EDGES", "PROBABILITY", "Curve", "MethodTable", "RadiusTables", "method_key", "shipped_tables", "tables_sha256"]

EDGES = "ngf"
"""Table of Gaussians that were fitted to edges: the measure that ``auto`` takes where contrast changes."""
PROBABILITY = "0.9"
"""Of the radius that is written, as the tables name it."""

_SMALLEST = 1e-5  # of a feature, before its logarithm
_FILE = "radius.json"


class Curve(Config):
    """A piecewise linear, nowhere falling function, constant beyond its first and last knot."""

    knots: tuple[float, ...] = Field(min_length=2)
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.values) != len(self.knots):
            raise ValueError(f"expected as many values as knots, {len(self.knots)}, got {len(self.values)}")
        if any(b <= a for a, b in itertools.pairwise(self.knots)) or any(b < a for a, b in itertools.pairwise(self.values)):
            raise ValueError("knots must rise and values must not fall")
        return self

    def at(self, places: Tensor) -> Tensor:
        """Values at places of any shape."""
        knots, values = places.new_tensor(self.knots), places.new_tensor(self.values)
        upper = torch.searchsorted(knots, places.contiguous()).clamp(1, len(knots) - 1)
        low, high = knots[upper - 1], knots[upper]
        share = ((places - low) / (high - low)).clamp(0, 1)
        return torch.lerp(values[upper - 1], values[upper], share)


class MethodTable(Config):
    """What was found for the results of one method."""

    calibrated_on: str = ""
    """Kinds of series and seeds, in one sentence; "" in tables from before every method had its own."""
    features: dict[str, Curve]
    """Of the logarithm of each feature; the score is their sum."""
    radius: dict[str, Curve]
    """Probability -> logarithm of the radius, NORMALISED, of the score."""
    centre: dict[str, float]
    """Mean over the calibration's frames of the logarithm of each feature of a frame."""
    precision: tuple[tuple[float, ...], ...]
    """Inverse covariance of those, in the order of ``centre``."""
    farthest: float = Field(gt=0)
    """Mahalanobis distance from the centre beyond which a frame is unlike those of the calibration."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(len(row) != len(self.centre) for row in self.precision) or len(self.precision) != len(self.centre):
            raise ValueError(f"precision must be square, with a row for each of {', '.join(self.centre)}")
        if PROBABILITY not in self.radius:
            raise ValueError(f"radius must hold the probability {PROBABILITY}")
        return self

    def score(self, values: Mapping[str, Tensor]) -> Tensor:
        """How far off a place is likely to be, of any shape; only its order means something."""
        return torch.stack([curve.at(_log(values[name])) for name, curve in self.features.items()]).sum(0)

    def radius_of(self, values: Mapping[str, Tensor], probability: str = PROBABILITY) -> Tensor:
        """Radius, NORMALISED, within which the true position lies with a probability."""
        return self.radius[probability].at(self.score(values)).exp()

    def distance(self, frames: Mapping[str, Tensor]) -> Tensor:
        """Mahalanobis distance (B,) of frames from those of the calibration, from the features (B,) of a frame."""
        apart = torch.stack([_log(frames[name]) - mean for name, mean in self.centre.items()], -1)
        return torch.einsum("bi,ij,bj->b", apart, apart.new_tensor(self.precision), apart).clamp_min(0).sqrt()


class RadiusTables(Config):
    """The file of all methods' tables."""

    format_version: Literal[1] = 1
    calibrated_on: str
    """Kinds of series and seeds of the methods that do not say so themselves, in one sentence."""
    methods: dict[str, MethodTable]
    """By the keys of ``method_key``; those with "+back" have the disagreement of forward and backward, too."""


def method_key(config: RegistrationConfig) -> str:
    """Which table holds: r2n2, network (r2n2 without refinement), fit, bspline, or ngf where Gaussians were fitted to edges."""
    if config.method != "bspline" and config.similarity not in ("auto", "ssd"):
        return EDGES
    return "network" if config.method == "r2n2" and not config.refine else config.method


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(_SMALLEST).log()


@functools.cache
def shipped_tables() -> RadiusTables:
    """The tables that ship with the package."""
    return RadiusTables.model_validate_json(_shipped_bytes())


@functools.cache
def tables_sha256() -> str:
    """Hash of their file."""
    return hashlib.sha256(_shipped_bytes()).hexdigest()


def _shipped_bytes() -> bytes:
    return (importlib.resources.files("r2n2.resources") / "uncertainty" / _FILE).read_bytes()
