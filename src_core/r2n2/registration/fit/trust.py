"""How far each pixel of the reference can be trusted: the less, the more stays unexplained there over the frames of a series.

What is left of a frame once it is aligned is noise where the model holds. Blood that flows, structures that pass through the slice
or tissue that slides stay different in many frames, whatever is fitted, and pull at the Gaussians around them. The second moment
over time of what is left tells them apart, as no single pair can: iteratively reweighted least squares (Holland & Welsch, 1977),
with one weight for a pixel over all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.geometry import Grid
from r2n2.preprocessing import blur_measured
from r2n2.registration.base import Pairs
from r2n2.registration.fit.level import Level
from r2n2.registration.fit.method import linear_parts, starting_model
from r2n2.registration.measures import Measure
from r2n2.transform import GaussianSequence, Transform, resample

__all__ = ["Leftover", "TrustMap", "trust_of"]

# z-scored: differences this small are of rounding and interpolation, and no reason to prefer one pixel to another.
_LEAST_NOISE = 0.02
_TRUSTED = 1 / 3


@dataclass(frozen=True, eq=False)
class TrustMap:
    """How much the pixels of a reference count, by what is left of the frames aligned to it.

    Parameters
    ----------
    weight
        (1, 1, *lattice.shape) float32 in (0, 1].
    lattice
        The finest working square, or lattice of a volume; shares NORMALISED space with the frames.
    frames
        How many it is made of.
    noise
        Up to which a pixel is fully trusted: root mean square over the frames of what is left, z-scored.
    """

    weight: Tensor
    lattice: Grid
    frames: int
    noise: float

    def on(self, grid: Grid) -> Tensor:
        """On the pixels of the frames, (*grid.shape) float32."""
        return resample(self.weight.cpu(), self.lattice, grid).image[0, 0]


class Leftover:
    """Running sums, over the frames of a series, of the squares of what is left at each pixel of the reference.

    Memory does not grow with the series. It is filled where a batch is registered, in place of an estimate of its uncertainty.

    Parameters
    ----------
    config, measure
        By which the frames are fitted.
    """

    both_ways = False

    def __init__(self, config: FitConfig, measure: Measure) -> None:
        self._config = config
        self._measure = measure
        self._frames = 0
        self._sums: Tensor | None = None
        self._lattice: Grid | None = None

    def estimate(self, pairs: Pairs, transforms: Sequence[Transform], backward: Sequence[Transform] = ()) -> tuple[None, ...]:
        """Add the frames of a batch, as they are aligned by then; gives an uncertainty of none.

        Frames that were moved as a whole, of which a part is out of view, have no say.
        """
        rows = [row for row, transform in enumerate(transforms) if _usable(transform)]
        if rows:
            with torch.inference_mode():
                self._add(pairs if len(rows) == len(pairs) else pairs.chosen(rows), [transforms[row] for row in rows])
        return (None,) * len(pairs)

    def _add(self, pairs: Pairs, transforms: Sequence[Transform]) -> None:
        model = starting_model(pairs, transforms)
        level = Level.build(pairs, self._config.sizes[-1], self._config, self._measure, model, linear_parts(pairs, transforms))
        current = level.assess(model)
        counted = (current.weight > 0).double()
        squares = current.residual.double().square().sum(1, keepdim=True)
        # Bounded, as in the objective: a frame that has gone astray says no more than any other.
        squares = squares / (1 + squares / self._config.outlier**2)
        slopes = current.slope.double().square().sum((1, 2)).unsqueeze(1)
        sums = torch.stack([(part * counted).sum(0).cpu() for part in (squares, slopes, torch.ones_like(slopes))], 1)
        self._sums = sums if self._sums is None else self._sums + sums
        self._frames, self._lattice = self._frames + len(pairs), level.grid

    def map(self) -> TrustMap | None:
        """What follows from the frames so far; None where they are too few."""
        if self._sums is None or self._lattice is None or self._frames < self._config.trust_frames:
            return None
        squares, slopes, counts = self._sums.unflatten(2, self._lattice.shape).split(1, 1)
        spread, slope = ((part / counts.clamp_min(1)).float() for part in (squares, slopes))
        weight, noise = trust_of(spread, slope, counts > 0, self._config.trust_window_px)
        return TrustMap(weight, self._lattice, self._frames, noise)


def trust_of(spread: Tensor, slope: Tensor, counted: Tensor, window_px: float) -> tuple[Tensor, float]:
    """Weights min(1, (noise / s)^4) and the noise, with s^2 the local mean of ``spread``.

    Without a model of what is left, least squares would weigh by (noise / s)^2, the inverse of the variance; the fourth power also
    holds back what is left of wrong displacements, which is systematic. The noise is the s below which a third of the squared slope
    lies: what is flat, such as air, tells nothing of motion, whatever its noise.

    Parameters
    ----------
    spread, slope
        (1, 1, *shape) means over time of the squares of what is left and of the intensity's slope; intensities are z-scored.
    counted
        (1, 1, *shape) bool, where they are known; elsewhere nothing counts anyway.
    window_px
        Standard deviation of the Gaussian window of the local mean: the squares of few frames say little about one pixel.
    """
    smooth = blur_measured(spread, counted, (window_px,) * (spread.ndim - 2))
    noise = max(_quantile(smooth[counted], slope[counted], _TRUSTED), _LEAST_NOISE**2)
    return torch.where(counted, (noise / smooth.clamp_min(noise)).square(), torch.ones_like(smooth)), noise**0.5


def _quantile(values: Tensor, weights: Tensor, share: float) -> float:
    """The value below which that share of the weights (P,) lies; 0 where nothing has weight."""
    if not len(values) or not bool((weights > 0).any()):
        return 0.0
    ordered, order = values.sort()
    reached = weights[order].double().cumsum(0)
    return float(ordered[int(torch.searchsorted(reached, reached[-1] * share).clamp_max(len(ordered) - 1))])


def _usable(transform: Transform) -> bool:
    return isinstance(transform, GaussianSequence) and transform.linear is None
