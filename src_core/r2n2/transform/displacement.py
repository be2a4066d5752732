"""Dense displacement fields on a grid and the algebra of transforms x -> x + f(x): mapping, inverse, composition, Jacobian."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from r2n2.geometry import Grid, GridMismatchError, Space
from r2n2.transform.matrices import determinant
from r2n2.transform.warp import normalised_axes, normalised_lattice, sample_normalised, warp

__all__ = [
    "DisplacementField",
    "Inverse",
    "Transform",
    "cell_determinants",
    "compose",
    "folding_percent",
    "inverse",
    "jacobian_determinant",
    "map_points",
    "sampled",
    "warp_image",
]

_CONTRACTIONS = 10  # a displacement that contracts has converged by then, or is near enough for Newton's method
_DIFFERENCE = 1e-6  # NORMALISED, of the Jacobian in float64
_SHORTENED = tuple(0.5**k for k in range(10))


class Transform(Protocol):
    """A displacement f that maps fixed points into the moving frame: p -> p + f(p) (pull-back)."""

    @property
    def grid(self) -> Grid:
        """Lattice of the fixed frame."""
        ...

    def displacement_at(self, positions: Tensor) -> Tensor:
        """Displacement (P, ndim) at positions (P, ndim), both NORMALISED."""
        ...

    def displacement_field(self) -> DisplacementField:
        """The displacement of every pixel of the grid."""
        ...


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """One vector a pixel of a grid.

    Parameters
    ----------
    vectors
        (ndim, *grid.shape), array order, in ``space``.
    grid
        Lattice of the fixed frame.
    space
        Unit and axes of the vectors.

    Raises
    ------
    ValueError
        If the shape does not fit the grid or a number is not finite.
    """

    vectors: Tensor
    grid: Grid
    space: Space

    def __post_init__(self) -> None:
        expected = (self.grid.ndim, *self.grid.shape)
        if tuple(self.vectors.shape) != expected:
            raise ValueError(f"DisplacementField: vectors must have shape {expected} for its grid, got {tuple(self.vectors.shape)}")
        if not bool(torch.isfinite(self.vectors).all()):
            raise ValueError("DisplacementField: vectors hold a number that is not finite")

    @classmethod
    def identity(cls, grid: Grid) -> DisplacementField:
        """No displacement anywhere."""
        return cls(torch.zeros(grid.ndim, *grid.shape), grid, Space.NORMALISED)

    def to_space(self, space: Space) -> DisplacementField:
        """The same displacement in another unit."""
        vectors = self.grid.convert_vectors(self.vectors.movedim(0, -1), self.space, space)
        return DisplacementField(vectors.movedim(-1, 0), self.grid, space)

    def displacement_at(self, positions: Tensor) -> Tensor:
        """Displacement (P, ndim) at positions (P, ndim), both NORMALISED; linear between pixels, constant outside."""
        vectors = self.to_space(Space.NORMALISED).vectors[None].to(positions.dtype)
        points = positions.mT[None].reshape(1, self.grid.ndim, -1, *([1] * (self.grid.ndim - 1)))
        return sample_normalised(vectors, points, self.grid).image[0].flatten(1).mT

    def displacement_field(self) -> DisplacementField:
        """Itself, as any transform can give its field."""
        return self

    def magnitude_mm(self) -> Tensor:
        """Length of every vector in mm, (*grid.shape)."""
        return self.to_space(Space.WORLD).vectors.norm(dim=0)


def sampled(transform: Transform, grid: Grid, dtype: torch.dtype = torch.float32) -> DisplacementField:
    """The displacement on another lattice of the same NORMALISED space; memory holds one plane of it at a time beside the result.

    Raises
    ------
    GridMismatchError
        If the lattice lies in another space.
    """
    if not transform.grid.same_space(grid):
        raise GridMismatchError(f"sampled: the grids do not share one normalised space: {transform.grid} and {grid}")
    vectors = torch.empty(grid.ndim, *grid.shape, dtype=dtype)
    lattice = normalised_lattice(grid, vectors)
    for number in range(grid.shape[0]):
        found = transform.displacement_at(lattice[:, number].flatten(1).mT).mT
        vectors[:, number] = found.unflatten(1, grid.shape[1:])
    return DisplacementField(vectors, grid, Space.NORMALISED)


def map_points(transform: Transform, points: Tensor, space: Space) -> Tensor:
    """Where fixed points lie in the moving frame: p + f(p), (P, ndim) in the ``space`` of ``points``."""
    positions = transform.grid.convert_points(points, space, Space.NORMALISED)
    return transform.grid.convert_points(positions + transform.displacement_at(positions), Space.NORMALISED, space)


class Inverse(NamedTuple):
    """An inverted displacement and how well it undoes the original."""

    field: DisplacementField
    residual_mm: float
    """Largest |v(y) + f(y + v(y))| over the grid in mm; large where the transform folds or leaves the grid."""


def inverse(transform: Transform, *, iterations: int = 50, tolerance_mm: float | None = None) -> Inverse:
    """Inverse displacement v with (y + v(y)) + f(y + v(y)) = y.

    By fixed point iteration v <- -f(y + v), which converges where f contracts, then where it did not by Newton's method, each step
    shortened until it helps: that converges from anywhere if the Jacobian is nowhere singular, as ``jacobian_bound`` can prove. The
    residual says whether it did.

    Parameters
    ----------
    iterations
        At most, of both kinds together.
    tolerance_mm
        Residual at which a point is left; None: a thousandth of a pixel.
    """
    grid = transform.grid
    start = transform.displacement_field().to_space(Space.NORMALISED).vectors
    targets = normalised_lattice(grid, start.double()).flatten(1).mT
    tolerance = (1e-3 * min(grid.spacing) if tolerance_mm is None else tolerance_mm) / grid.unit_mm
    places, missing = targets, transform.displacement_at(targets)
    for _ in range(min(iterations, _CONTRACTIONS)):
        if float(missing.norm(dim=1).max()) <= tolerance:
            break
        places = places - missing
        missing = places + transform.displacement_at(places) - targets
    for _ in range(iterations - _CONTRACTIONS):
        left = (missing.norm(dim=1) > tolerance).nonzero()[:, 0]
        if not len(left):
            break
        found, rest = _newton_step(transform, places[left], missing[left], targets[left])
        places, missing = places.index_copy(0, left, found), missing.index_copy(0, left, rest)
    vectors = (places - targets).to(start.dtype).mT.unflatten(1, grid.shape)
    return Inverse(DisplacementField(vectors, grid, Space.NORMALISED), float(missing.norm(dim=1).max()) * grid.unit_mm)


def _newton_step(transform: Transform, places: Tensor, missing: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Places (P, ndim) that map nearer to ``targets``, and what is missing there; points that no step helps stay."""
    ndim = places.shape[1]
    columns = []
    for axis in range(ndim):
        offset = places.new_zeros(ndim)
        offset[axis] = _DIFFERENCE
        rise = transform.displacement_at(places + offset) - transform.displacement_at(places - offset)
        columns.append(offset / _DIFFERENCE + rise / (2 * _DIFFERENCE))
    step, failed = torch.linalg.solve_ex(torch.stack(columns, -1), -missing)
    step = torch.where((failed == 0)[:, None] & step.isfinite(), step, -missing)
    waiting = torch.arange(len(places), device=places.device)
    found, rest = places.clone(), missing.clone()
    for shortened in _SHORTENED:
        tried = places[waiting] + shortened * step[waiting]
        left = tried + transform.displacement_at(tried) - targets[waiting]
        better = left.norm(dim=1) < (1 - 0.1 * shortened) * missing[waiting].norm(dim=1)
        found[waiting[better]], rest[waiting[better]] = tried[better], left[better]
        waiting = waiting[~better]
        if not len(waiting):
            break
    return found, rest


def compose(first: Transform, then: Transform) -> DisplacementField:
    """The transform x -> then(first(x)): displacement f_first(x) + f_then(x + f_first(x)) on the grid of ``first``.

    Raises
    ------
    GridMismatchError
        If the two do not share one NORMALISED space.
    """
    if not first.grid.same_space(then.grid):
        raise GridMismatchError(f"compose: the grids do not share one normalised space: {first.grid} and {then.grid}")
    vectors = first.displacement_field().to_space(Space.NORMALISED).vectors
    slabs, axes = [], normalised_axes(first.grid, vectors)
    # A few planes of a volume at a time: their positions take as much as the field.
    for part, height in zip(vectors.split(_planes_at_once(first.grid), 1), axes[0].split(_planes_at_once(first.grid)), strict=True):
        positions = torch.stack(torch.meshgrid(height, *axes[1:], indexing="ij")) + part
        slabs.append(part + then.displacement_at(positions.flatten(1).mT).mT.unflatten(1, part.shape[1:]))
    return DisplacementField(torch.cat(slabs, 1), first.grid, Space.NORMALISED)


def _planes_at_once(grid: Grid) -> int:
    """All rows of a 2D frame; of a volume as many planes as make a million voxels."""
    return grid.shape[0] if grid.ndim == 2 else max(1, 2**20 // (grid.shape[1] * grid.shape[2]))


def jacobian_determinant(displacement: Tensor, grid: Grid) -> Tensor:
    """Determinants of the Jacobian of x -> x + f(x) by finite differences, every way one cell of the lattice allows.

    A cell is the square (cube) between neighbouring pixel centres. In 2D there are four: one for the triangle at each of its
    corners, from the differences along its two edges. In 3D there are ten: the tetrahedra at the eight corners, and the two
    inner tetrahedra left when four corners are cut off (arXiv 2212.06060). If all are positive the linearly interpolated map
    does not fold; central differences can all be 1 on a field that folds.

    Parameters
    ----------
    displacement
        (B, ndim, *grid.shape) NORMALISED.

    Returns
    -------
    Tensor
        (B, 4, H-1, W-1) or (B, 10, D-1, H-1, W-1), without unit.

    Raises
    ------
    ValueError
        If an axis has fewer than 2 pixels.
    """
    if any(n < 2 for n in grid.shape):
        raise ValueError(f"jacobian_determinant: every axis needs at least 2 pixels, got shape {grid.shape}")
    unit_volume = 1.0
    for spacing in grid.spacing:
        unit_volume *= spacing / grid.unit_mm
    return cell_determinants(normalised_lattice(grid, displacement) + displacement, unit_volume)


def cell_determinants(mapped: Tensor, unit_volume: float) -> Tensor:
    """As ``jacobian_determinant``, from where the pixels of a grid, or some of its rows, are mapped to.

    Parameters
    ----------
    mapped
        (B, ndim, *shape) NORMALISED.
    unit_volume
        Volume of a cell of the grid in NORMALISED units.
    """
    ndim = mapped.shape[1]
    corner = {bits: _cell_corner(mapped, bits) for bits in itertools.product((0, 1), repeat=ndim)}
    determinants = []
    for bits, here in corner.items():
        along = []
        for axis in range(ndim):
            across = tuple(1 - b if k == axis else b for k, b in enumerate(bits))
            along.append((corner[across] - here) * (1 - 2 * bits[axis]))
        determinants.append(determinant([edge.unbind(1) for edge in along]) / unit_volume)
    if ndim == 3:
        for parity in (0, 1):
            a, b, c, d = (corner[bits] for bits in corner if sum(bits) % 2 == parity)
            # These tetrahedra fill a third of the cell; the sign is that of the identity's.
            sign = 1 if parity == 0 else -1
            edges = [(b - a).unbind(1), (c - a).unbind(1), (d - a).unbind(1)]
            determinants.append(sign * determinant(edges) / (2 * unit_volume))
    return torch.stack(determinants, dim=1)


def _cell_corner(mapped: Tensor, bits: tuple[int, ...]) -> Tensor:
    for axis, bit in enumerate(bits):
        mapped = mapped.narrow(axis + 2, bit, mapped.shape[axis + 2] - 1)
    return mapped


def folding_percent(determinants: Tensor) -> Tensor:
    """Share in percent of the cells in which any determinant is not positive, (B,)."""
    return 100 * (determinants <= 0).any(dim=1).flatten(1).float().mean(dim=1)


def warp_image(image: Tensor, transform: Transform) -> Tensor:
    """Moving image (C, *grid.shape) resampled by a transform on the fixed lattice."""
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors
    return warp(image[None], vectors[None].to(image.dtype), transform.grid).image[0]
