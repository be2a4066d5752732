"""A motion of the frame as a whole, found before any method begins: by searching all translations, then by Gauss-Newton steps.

It is a linear part [A | b] of the displacement, A x + b in NORMALISED space, from which every method goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from r2n2.config import InitialName
from r2n2.geometry import Grid
from r2n2.preprocessing import Square, normalise, score_together
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.measures import gradient_of
from r2n2.registration.translation_search import Correlations, correlate_translations
from r2n2.transform import (
    GaussianSequence,
    Transform,
    lattice_rows,
    linear_displacement,
    mask_of,
    normalised_lattice,
    row_blocks,
    sample_masked,
    sample_normalised,
)
from r2n2.working import to_working

__all__ = ["GoingOn", "Initialised", "find_initial"]

_SEARCHED = {2: 64, 3: 32}
_REFINED = {2: ((64, 8), (128, 8), (256, 6)), 3: ((32, 8), (64, 6))}
_CLAMP, _OUTLIER = 3.0, 1.0
_STAGES = {"auto": ("translation",), "translation": ("translation",), "rigid": ("rigid",), "affine": ("rigid", "affine")}
_TURNS_DEG = (-24.0, -12.0, 0.0, 12.0, 24.0)
# Chosen on simulated thoraxes of the seeds 100 to 107 and moved textures: see the page on performance.
_SHORTEST, _GAIN, _ALIKE = 0.12, 0.4, 0.6


class Initialised:
    """A method that begins where the frame as a whole was found to lie.

    Parameters
    ----------
    method
        The method.
    kind
        What is looked for; "auto": a translation, taken where it makes the images far more alike than none.
    """

    def __init__(self, method: Method, kind: InitialName) -> None:
        self._method = method
        self._kind = kind

    @property
    def name(self) -> str:
        """That of the method."""
        return self._method.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step of the method; a start is gone on from as it is.

        Pairs that are moved as a whole are registered after the others, which stay what they would be without them.
        """
        found: tuple[Tensor | None, ...] = ()
        if start is None:
            with torch.inference_mode():
                found = find_initial(pairs, self._kind)
        if all(linear is None for linear in found):
            yield from self._method.register(pairs, start=start)
            return
        none = GaussianSequence.identity(pairs.grid)
        begun = [none if linear is None else replace(none, linear=linear.cpu().clone()) for linear in found]
        yield from _register_apart(self._method, pairs, begun, begun=False)


class GoingOn:
    """A method that goes on from what was found after ``Initialised``, and compares what that compared.

    Parameters
    ----------
    method
        The method.
    """

    def __init__(self, method: Method) -> None:
        self._method = method

    @property
    def name(self) -> str:
        """That of the method."""
        return self._method.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step; of pairs that were moved as a whole only what both frames show counts."""
        given = [one for one in start or () if isinstance(one, GaussianSequence)]
        if len(given) != len(pairs) or all(one.linear is None for one in given):
            yield from self._method.register(pairs, start=start)
            return
        yield from _register_apart(self._method, pairs, given, begun=True)


def _register_apart(method: Method, pairs: Pairs, starts: Sequence[GaussianSequence], *, begun: bool) -> Iterator[RegistrationStep]:
    """Pairs that are moved as a whole after the others; these from no start where none has ``begun``."""
    moved = [row for row, sequence in enumerate(starts) if sequence.linear is not None]
    rest = [row for row in range(len(pairs)) if row not in moved]
    parts = [(rows, _part(pairs, rows, [starts[row] for row in rows])) for rows in (rest, moved) if rows]
    reached, loss, before = list[Transform](starts), pairs.moving.new_full((len(pairs),), torch.nan), 0
    for number, (rows, (some, own)) in enumerate(parts):
        step: RegistrationStep | None = None
        for step in method.register(some, start=own if begun or rows is moved else None):
            loss = loss.index_put((torch.tensor(rows, device=loss.device),), step.loss.to(loss))
            total = before + step.total * (len(parts) - number)
            so_far = partial(_in_place, tuple(reached), tuple(rows), step.transforms)
            notes = tuple(step.notes[rows.index(row)] if row in rows and step.notes else "" for row in range(len(pairs)))
            yield RegistrationStep(before + step.index, total, loss, so_far, notes if any(notes) else ())
        if step is not None:
            reached, before = list(_in_place(tuple(reached), tuple(rows), step.transforms)), before + step.index


def _in_place(
    reached: tuple[Transform, ...], rows: tuple[int, ...], found: Callable[[], tuple[Transform, ...]]
) -> tuple[Transform, ...]:
    """The transforms of a batch, those of some pairs replaced."""
    new = dict(zip(rows, found(), strict=True))
    return tuple(new.get(row, transform) for row, transform in enumerate(reached))


def _part(pairs: Pairs, rows: Sequence[int], begun: Sequence[GaussianSequence]) -> tuple[Pairs, list[Transform]]:
    """Some of the pairs and their start; of those that are moved as a whole, only what both frames show counts.

    What enters a frame that is far away is other tissue, which would spoil the mean and deviation of its intensities.
    """
    some = pairs.chosen(rows)
    parts = [sequence.linear for sequence in begun if sequence.linear is not None]
    if not parts:
        return some, list(begun)
    linear, blocks = torch.stack(parts).to(pairs.moving), []
    for block in row_blocks(pairs.grid):
        lattice = lattice_rows(pairs.grid, block, pairs.moving)
        places = lattice + linear_displacement(linear, lattice)
        blocks.append(sample_normalised(pairs.moving[:1, :1], places, pairs.grid).valid.to(lattice.dtype))
    overlap = torch.cat(blocks, 2)
    return replace(some, fixed_weight=overlap if some.fixed_weight is None else overlap * some.fixed_weight), list(begun)


def find_initial(pairs: Pairs, kind: InitialName) -> tuple[Tensor | None, ...]:
    """The linear part (ndim, ndim + 1) of every pair; None where there is none.

    Parameters
    ----------
    pairs
        The image pairs, of any shape and spacing.
    kind
        As in ``RegistrationConfig.initial``.
    """
    if kind == "none":
        return (None,) * len(pairs)
    begun, taken = _search(pairs, kind)
    rows = [k for k, found in enumerate(taken.tolist()) if found]
    if not rows:
        return (None,) * len(pairs)
    some = pairs.chosen(rows)
    linear = begun[torch.tensor(rows, device=begun.device)]
    # An affine map begins from a rotation: alone it would shear where a turn is meant.
    for stage in _STAGES[kind]:
        linear = _refine(some, linear, stage)
    found: list[Tensor | None] = [None] * len(pairs)
    for row, part in zip(rows, linear, strict=True):
        found[row] = part
    return tuple(found)


def _search(pairs: Pairs, kind: InitialName) -> tuple[Tensor, Tensor]:
    """The best translation of every pair, for rigid and affine also turned, (B, ndim, ndim + 1), and whether it is taken (B,)."""
    ndim = pairs.grid.ndim
    fixed, moving = _squares(pairs, _SEARCHED[ndim])
    a, b = _scored(fixed, moving, None)
    weights = [square.valid.to(a.dtype) if square.weight is None else square.weight for square in (fixed, moving)]
    turned = kind in ("rigid", "affine") and ndim == 2
    best: Tensor | None = None
    linear = a.new_zeros(len(pairs), ndim, ndim + 1)
    alone: Correlations | None = None
    for degrees in _TURNS_DEG if turned else (0.0,):
        matrix = _turn(degrees, a) if degrees else a.new_zeros(ndim, ndim)
        places = normalised_lattice(fixed.grid, a).flatten(1)
        places = (places + matrix @ places).unflatten(1, fixed.grid.shape)[None]
        source, weight = b, weights[1]
        if degrees:
            sampled, inside = sample_masked(torch.cat((b, weights[1]), 1), None, places, fixed.grid)
            source, weight = sampled[:, :1], sampled[:, 1:] * inside
        found = correlate_translations(a, weights[0], source, weight, fixed.grid)
        alone = found if not degrees else alone
        score, place = found.score.max(1)
        shift = found.shifts[place]
        if degrees:
            shift = shift + shift @ matrix.mT  # a translation of the turned image, turned
        here = torch.cat((matrix.expand(len(pairs), -1, -1), shift.unsqueeze(2)), 2)
        better = torch.ones_like(score, dtype=torch.bool) if best is None else score > best
        linear = torch.where(better[:, None, None], here, linear)
        best = score if best is None else torch.where(better, score, best)
    assert best is not None
    assert alone is not None
    if kind != "auto":
        return linear, torch.ones_like(best, dtype=torch.bool)
    without = alone.score[:, alone.score.shape[1] // 2]
    long = linear[..., -1].norm(dim=1) > _SHORTEST
    return linear, long & (best > _ALIKE) & (best - without > _GAIN)


def _squares(pairs: Pairs, size: int) -> tuple[Square, Square]:
    images, valid, weight = pairs.distinct_fixed()
    fixed = to_working(images, valid, pairs.grid, size, weight=weight)
    return fixed, to_working(pairs.moving, pairs.moving_valid, pairs.grid, size, weight=pairs.moving_weight)


def _scored(fixed: Square, moving: Square, displacement: Tensor | None) -> tuple[Tensor, Tensor]:
    """z-scored images, under a displacement by what both frames show."""
    if displacement is not None:
        return score_together(fixed, moving, displacement, clamp=_CLAMP, aligned=True)
    return normalise(fixed.images, fixed.valid, clamp=_CLAMP), normalise(moving.images, moving.valid, clamp=_CLAMP)


def _turn(degrees: float, like: Tensor) -> Tensor:
    """R - 1 in 2D, array order, from x towards y."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return like.new_tensor([[cos - 1, sin], [-sin, cos - 1]])


class _Assessed(NamedTuple):
    """A linear part with what it makes of the moving images."""

    objective: Tensor
    """(B,)"""
    residual: Tensor
    """(B, 1, P)"""
    slope: Tensor
    """(B, ndim, P)"""
    weight: Tensor
    """(B, 1, P)"""


@dataclass(frozen=True, eq=False)
class _Level:
    """The images of a batch on one working lattice."""

    fixed: Tensor
    """(B or 1, 1 + ndim, *shape) intensity and gradient"""
    moving: Tensor
    """(B, 1 + ndim (+ 1), *shape), behind them the weight of a mask"""
    moving_valid: Tensor | None
    weight: Tensor
    """(B or 1, 1, *shape) of the fixed image"""
    lattice: Tensor
    grid: Grid

    @classmethod
    def build(cls, pairs: Pairs, size: int, linear: Tensor) -> _Level:
        fixed, moving = _squares(pairs, size)
        lattice = normalised_lattice(fixed.grid, fixed.images)
        images = _scored(fixed, moving, linear_displacement(linear, lattice))
        a, b = (
            torch.cat((image, gradient_of(image, square)[:, 0]), 1) for image, square in zip(images, (fixed, moving), strict=True)
        )
        held = b if moving.weight is None else torch.cat((b, moving.weight), 1)
        weight = fixed.valid.to(a.dtype) if fixed.weight is None else fixed.weight
        return cls(a, held, mask_of(moving.valid, b), weight, lattice, fixed.grid)

    def assess(self, linear: Tensor) -> _Assessed:
        ndim = self.grid.ndim
        warped, valid = sample_masked(
            self.moving, self.moving_valid, self.lattice + linear_displacement(linear, self.lattice), self.grid
        )
        weight = self.weight * valid
        if warped.shape[1] > 1 + ndim:
            weight = weight * warped[:, 1 + ndim :]
        weight = (weight / weight.flatten(1).sum(1).clamp_min(1e-6).view(-1, *[1] * (ndim + 1))).flatten(2)
        residual = (warped[:, :1] - self.fixed[:, :1]).flatten(2)
        doubt = 1 + residual.square() / _OUTLIER**2
        slope = 0.5 * (warped[:, 1 : 1 + ndim] + self.fixed[:, 1:]).flatten(2)
        return _Assessed((weight * residual.square() / doubt).sum((1, 2)), residual, slope, weight / doubt.square())


def _refine(pairs: Pairs, linear: Tensor, kind: str) -> Tensor:
    """Damped Gauss-Newton steps on the robust squared difference, coarse to fine; a pair takes those that lower it."""
    for size, steps in _REFINED[pairs.grid.ndim]:
        level = _Level.build(pairs, size, linear)
        current = level.assess(linear)
        damping = torch.full_like(current[0], 1e-3)
        for _ in range(steps):
            objective, residual, slope, weight = current
            directions = _directions(kind, linear, level.lattice.flatten(1))
            rows = torch.einsum("bip,bkip->bkp", slope, directions)
            matrix = (rows * weight) @ rows.mT
            diagonal = matrix.diagonal(dim1=1, dim2=2)
            matrix = matrix + torch.diag_embed(damping[:, None] * diagonal + 1e-9)
            change = -torch.linalg.solve(matrix, (rows * weight * residual).sum(2).unsqueeze(2))[..., 0]
            tried = _changed(kind, linear, change)
            assessed = level.assess(tried)
            better = (assessed[0] < objective) & tried.flatten(1).isfinite().all(1)
            linear = torch.where(better[:, None, None], tried, linear)
            current = _Assessed(
                *(torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in zip(assessed, current, strict=True))
            )
            damping = torch.where(better, damping * 0.3, damping * 10).clamp(1e-6, 1e3)
    return linear


def _generators(kind: str, like: Tensor, ndim: int) -> Tensor:
    """(Q, ndim, ndim) of the changes of the matrix: all of them, or the infinitesimal rotations."""
    pairs = [(i, j) for i in range(ndim) for j in range(ndim)]
    if kind == "translation":
        return like.new_zeros(0, ndim, ndim)
    if kind == "affine":
        found = like.new_zeros(len(pairs), ndim, ndim)
        for k, (i, j) in enumerate(pairs):
            found[k, i, j] = 1
        return found
    turning = [(i, j) for i, j in pairs if i < j]
    found = like.new_zeros(len(turning), ndim, ndim)
    for k, (i, j) in enumerate(turning):
        found[k, i, j], found[k, j, i] = 1, -1
    return found


def _directions(kind: str, linear: Tensor, positions: Tensor) -> Tensor:
    """(B, Q + ndim, ndim, P): change of the displacement with every number."""
    batch, ndim = len(linear), linear.shape[1]
    generators = _generators(kind, linear, ndim)
    # A rotation is changed by a rotation that comes after it.
    turned = positions + linear[:, :, :-1] @ positions if kind == "rigid" else positions.expand(batch, -1, -1)
    shape = torch.einsum("qij,bjp->bqip", generators, turned)
    shift = torch.eye(ndim, dtype=linear.dtype, device=linear.device)[None, :, :, None].expand(batch, -1, -1, positions.shape[1])
    return torch.cat((shape, shift), 1)


def _changed(kind: str, linear: Tensor, change: Tensor) -> Tensor:
    ndim = linear.shape[1]
    generators = _generators(kind, linear, ndim)
    count = len(generators)
    matrix, shift = linear[:, :, :-1], linear[:, :, -1:]
    if kind == "rigid":
        unit = torch.eye(ndim, dtype=linear.dtype, device=linear.device)
        matrix = torch.linalg.matrix_exp(torch.einsum("bq,qij->bij", change[:, :count], generators)) @ (unit + matrix) - unit
    elif count:
        matrix = matrix + torch.einsum("bq,qij->bij", change[:, :count], generators)
    return torch.cat((matrix, shift + change[:, count:].unsqueeze(2)), 2)
