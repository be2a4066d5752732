"""Registration that provably does not fold: what folds is fitted again with a dearer fold, then limited where it still does.

Every step here is judged by ``r2n2.transform.jacobian_bound``, over the whole space for Gaussians, so that the map is one-to-one
and has an inverse everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.geometry import Space
from r2n2.preprocessing import blur
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.fit.method import FitMethod
from r2n2.registration.measures import Measure
from r2n2.transform import (
    BSplineField,
    DisplacementField,
    GaussianSequence,
    Transform,
    bspline_basis,
    jacobian_bound,
    precision_matrix,
)

__all__ = ["SMALLEST_PROVEN", "Unfolding", "limited"]

SMALLEST_PROVEN = 0.02
"""The determinant that is proven of every result."""

_AIM = 0.06  # what limiting one place brings it to, so that its surroundings need not follow one by one
_MOST_PLACES = 60
_HALVINGS = 30
# How much of a smoothed control point replaces it, at the place of the fold; less around it.
_SMOOTHING = 0.5
# Of a dense field: how far around the fold vectors are smoothed, and by how wide a window.
_CALMED_PX, _CALMED_BY_PX = 3.0, 1.5


class Unfolding:
    """A method whose results are changed, where they fold, until they provably do not.

    Parameters
    ----------
    method
        The method.
    fit
        Its settings of fit: Gaussians that fold take ``unfolding_steps`` more with ``unfolding_weight`` times the folding weight.
    measure
        What the images are then compared by; squared differences if None.
    """

    def __init__(self, method: Method, fit: FitConfig, *, measure: Measure | None = None) -> None:
        self._method = method
        self._measure = measure
        self._fit = fit.model_copy(
            update={
                "folding_weight": fit.unfolding_weight * max(fit.folding_weight, 1.0),
                "folding_size": 2 * fit.folding_size,
                "refine_steps": (0, fit.unfolding_steps),
                "far_steps": 0,
            }
        )

    @property
    def name(self) -> str:
        """That of the method."""
        return self._method.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step of the method; the last step gives what is proven."""
        last: RegistrationStep | None = None
        for step in self._method.register(pairs, start=start):
            if last is not None:
                yield replace(last, total=last.total + 1)
            last = step
        if last is None:
            return
        yield replace(last, total=last.index + 1)
        transforms, notes = self._unfolded(pairs, last.transforms())
        yield RegistrationStep(last.index + 1, last.index + 1, last.loss, lambda: transforms, notes)

    def _unfolded(self, pairs: Pairs, found: tuple[Transform, ...]) -> tuple[tuple[Transform, ...], tuple[str, ...]]:
        transforms, notes = list(found), [""] * len(found)
        smallest = [_proven(transform) for transform in found]
        folding = [k for k, proven in enumerate(smallest) if proven < SMALLEST_PROVEN]
        for k, again in zip(folding, self._fitted_again(pairs, found, folding), strict=True):
            folds = f"the Jacobian determinant found fell to {jacobian_bound(found[k], everywhere=True).found:.2f}"
            transforms[k], how = limited(again)
            done = [word for word in ("fitted again" if again is not found[k] else "", how) if word]
            notes[k] = f"{folds}; {' and '.join(done)}, it is proven to stay above {SMALLEST_PROVEN:g}"
        return tuple(transforms), tuple(notes)

    def _fitted_again(self, pairs: Pairs, found: Sequence[Transform], folding: Sequence[int]) -> list[Transform]:
        start = [found[k] for k in folding]
        sequences = [one for one in start if isinstance(one, GaussianSequence) and len(one)]
        if not start or len(sequences) < len(start) or not self._fit.refine_steps[1]:
            return start
        chosen = torch.tensor(list(folding), device=pairs.moving.device)
        some = pairs.chosen(chosen)
        fit = FitMethod(self._fit, gaussians=max(len(one) for one in sequences), measure=self._measure)
        *_, last = fit.register(some, start=start)
        # What filled shorter sequences up to the longest has no part in them.
        again = [one for one in last.transforms() if isinstance(one, GaussianSequence)]
        return [one.select(one.amplitudes.abs().amax(1) > 0) for one in again]


def _proven(transform: Transform) -> float:
    return jacobian_bound(transform, enough=SMALLEST_PROVEN, everywhere=True).proven


def limited(transform: Transform) -> tuple[Transform, str]:
    """The transform, made smaller or smoother where it folds until it provably does not, and what was done.

    Parameters
    ----------
    transform
        Gaussians are made smaller at the worst place, each by its part in the Jacobian there; control points, and the vectors of a
        dense field, are smoothed around it; any other is made smaller as a whole.
    """
    places = 0
    current: Transform = transform
    for places in range(_MOST_PLACES):
        bound = jacobian_bound(current, enough=SMALLEST_PROVEN, everywhere=True)
        if bound.proven >= SMALLEST_PROVEN:
            return current, f"limited at {places} place{'s'[: places > 1]}" if places else ""
        place = torch.tensor([bound.place], dtype=torch.float64)
        if isinstance(current, GaussianSequence):
            current = _smaller_at(current, place)
        elif isinstance(current, BSplineField):
            current = _smoother_at(current, place)
        elif isinstance(current, DisplacementField):
            current = _calmer_at(current, place)
        else:
            break
    return _smaller(current), "made smaller as a whole"


def _smaller_at(sequence: GaussianSequence, place: Tensor) -> GaussianSequence:
    """Gaussians made smaller by their part in the Jacobian at a place (1, ndim), as little as brings its determinant to the aim."""
    ndim = sequence.grid.ndim
    precision = precision_matrix(sequence.sigmas.double(), sequence.orientation.double())
    offset = place - sequence.centres.double()
    fall = (precision @ offset.unsqueeze(-1)).squeeze(-1)
    slopes = -fall * torch.exp(-0.5 * (fall * offset).sum(1, keepdim=True))
    amplitudes = sequence.amplitudes.double()
    whole = torch.eye(ndim, dtype=torch.float64)
    if sequence.linear is not None:
        whole = whole + sequence.linear[:, :-1].double()
    part = amplitudes.norm(dim=1) * slopes.norm(dim=1)
    part = part / part.max().clamp_min(torch.finfo(torch.float64).tiny)

    def determinant(less: float) -> float:
        jacobian = whole + (amplitudes * (1 - less * part)[:, None]).mT @ slopes
        return float(torch.linalg.det(jacobian))

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if determinant(middle) >= _AIM else (middle, high)
    smaller = amplitudes * (1 - high * part)[:, None]
    return replace(sequence, amplitudes=smaller.to(sequence.amplitudes.dtype))


def _smoother_at(field: BSplineField, place: Tensor) -> BSplineField:
    """Control points around a place (1, ndim) drawn towards the means of their neighbours along each axis."""
    control = field.control
    half = torch.tensor(field.grid.half_extent_mm, dtype=torch.float64) / field.grid.unit_mm
    weight = torch.ones((), dtype=torch.float64)
    for position, count in zip((place[0] / half + 1) / 2, control.shape[1:], strict=True):
        # A spline that is as wide as four control points, spread to their neighbours.
        along = bspline_basis(position[None], count)[0]
        spread = along.clone()
        spread[1:] += 0.5 * along[:-1]
        spread[:-1] += 0.5 * along[1:]
        weight = weight[..., None] * (spread / spread.max())
    smooth = control
    for axis in range(1, control.ndim):
        length = smooth.shape[axis]
        edges = torch.cat((smooth.narrow(axis, 0, 1), smooth, smooth.narrow(axis, length - 1, 1)), axis)
        smooth = 0.25 * edges.narrow(axis, 0, length) + 0.5 * smooth + 0.25 * edges.narrow(axis, 2, length)
    return replace(field, control=control + _SMOOTHING * weight.to(control.dtype) * (smooth - control))


def _calmer_at(field: DisplacementField, place: Tensor) -> DisplacementField:
    """Vectors around a place (1, ndim) drawn towards their means under a window of some pixels, most where they are nearest."""
    grid, vectors = field.grid, field.vectors
    pixels = grid.convert_points(place, Space.NORMALISED, Space.INDEX)[0]
    apart = [torch.arange(n, dtype=pixels.dtype) - at for n, at in zip(grid.shape, pixels, strict=True)]
    distance = sum((d.square().view(-1, *[1] * (grid.ndim - 1 - k)) for k, d in enumerate(apart)), torch.zeros(()))
    weight = torch.exp(-0.5 * distance / _CALMED_PX**2).to(vectors)
    smooth = blur(vectors[:, None], (_CALMED_BY_PX,) * grid.ndim)[:, 0]
    return replace(field, vectors=vectors + weight * (smooth - vectors))


def _smaller(transform: Transform) -> Transform:
    """The whole transform times the largest number that is found to do: at 0 it is the identity."""
    low, high = 0.0, 1.0
    for _ in range(8):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _proven(_scaled(transform, middle)) >= SMALLEST_PROVEN else (low, middle)
    return _scaled(transform, low)


def _scaled(transform: Transform, factor: float) -> Transform:
    if isinstance(transform, GaussianSequence):
        return replace(transform, amplitudes=factor * transform.amplitudes)
    if isinstance(transform, BSplineField):
        return replace(transform, control=factor * transform.control)
    field = transform.displacement_field()
    return replace(field, vectors=factor * field.vectors)
