"""Where things are: coordinate spaces and the grid that converts points and vectors between them.

Array order (z,)y,x is used for every shape, spacing, origin, point and vector, and for the rows and columns of a
direction matrix. The flips to torch's and ITK's x-first order happen in ``transform.warp`` and in the ITK writers.

Normalised space is *isotropic*: one unit is the same length in mm along every axis, so that a rotation is a rotation
and a round Gaussian is round whatever the frame's shape and spacing. That is why it is a cube (a square in 2D) around
the frame rather than the frame stretched to [-1, 1] along each axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Grid", "GridMismatchError", "Space"]

_ORTHONORMAL_TOLERANCE = 1e-4


class Space(Enum):
    """The coordinate systems in which a point or a vector can be given."""

    INDEX = "index"
    """Pixels along the array axes; the first pixel's centre is 0."""

    NORMALISED = "normalised"
    """Along the array axes; 0 at the grid's centre, +-1 at the outermost pixel centres of the physically longest axis."""

    WORLD = "world"
    """Millimetres: origin + direction @ (spacing * index), in array order."""


class GridMismatchError(ValueError):
    """Two things that must lie on the same grid do not."""


@dataclass(frozen=True)
class Grid:
    """Sampling lattice of an image of ``ndim`` 2 or 3; converts points and vectors between spaces.

    Parameters
    ----------
    shape
        Number of pixels along each axis, (z,)y,x.
    spacing
        Distance of neighbouring pixel centres in mm, (z,)y,x; default 1.
    origin
        World position in mm of the first pixel's centre, (z,)y,x; default 0.
    direction
        Orthonormal matrix in array order; column k is the world direction of axis k. Default identity.

    Raises
    ------
    ValueError
        If a length differs from ``len(shape)``, a spacing is not a positive finite number, an origin is not finite
        or the direction is not orthonormal.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    origin: tuple[float, ...] = ()
    direction: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        ndim = len(self.shape)
        if ndim not in (2, 3):
            raise ValueError(f"Grid: shape must have 2 or 3 axes (z,)y,x, got {tuple(self.shape)}")
        if any(int(n) != n or n < 1 for n in self.shape):
            raise ValueError(f"Grid: every axis of shape must be a whole number of at least 1 pixel, got {self.shape}")
        identity = tuple(tuple(float(i == j) for j in range(ndim)) for i in range(ndim))
        values = {
            "shape": tuple(int(n) for n in self.shape),
            "spacing": tuple(float(s) for s in self.spacing) or (1.0,) * ndim,
            "origin": tuple(float(o) for o in self.origin) or (0.0,) * ndim,
            "direction": tuple(tuple(float(d) for d in row) for row in self.direction) or identity,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        ndim = self.ndim
        for name in ("spacing", "origin", "direction"):
            if len(getattr(self, name)) != ndim:
                raise ValueError(f"Grid: {name} must have {ndim} entries as shape {self.shape} has, got {getattr(self, name)}")
        if any(not math.isfinite(s) or s <= 0 for s in self.spacing):
            raise ValueError(f"Grid: spacing must be positive and finite mm, got {self.spacing}; give the true spacing")
        if any(not math.isfinite(o) for o in self.origin):
            raise ValueError(f"Grid: origin must be finite mm, got {self.origin}")
        if any(len(row) != ndim for row in self.direction):
            raise ValueError(f"Grid: direction must be a {ndim} x {ndim} matrix, got {self.direction}")
        for i in range(ndim):
            for j in range(ndim):
                product = sum(self.direction[k][i] * self.direction[k][j] for k in range(ndim))
                if not abs(product - float(i == j)) < _ORTHONORMAL_TOLERANCE:
                    raise ValueError(f"Grid: direction must be orthonormal, got {self.direction}")

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def centre_index(self) -> tuple[float, ...]:
        """Centre in INDEX coordinates: (n - 1) / 2, which is between two pixels for an even n."""
        return tuple((n - 1) / 2 for n in self.shape)

    @property
    def half_extent_mm(self) -> tuple[float, ...]:
        """Half the distance in mm between the outermost pixel centres along each axis."""
        return tuple((n - 1) * s / 2 for n, s in zip(self.shape, self.spacing, strict=True))

    @property
    def unit_mm(self) -> float:
        """Length in mm of one unit of NORMALISED space: half the side of the enclosing cube."""
        longest = max(self.half_extent_mm)
        return longest if longest > 0 else max(self.spacing) / 2

    def same_space(self, other: Grid, tolerance: float = 1e-6) -> bool:
        """Whether NORMALISED coordinates mean the same place and direction on both grids."""
        if self.ndim != other.ndim:
            return False
        lengths = [(self.unit_mm, other.unit_mm), *zip(self._centre_mm(), other._centre_mm(), strict=True)]
        cosines = [
            (a, b) for mine, theirs in zip(self.direction, other.direction, strict=True) for a, b in zip(mine, theirs, strict=True)
        ]
        return all(abs(a - b) <= tolerance * self.unit_mm for a, b in lengths) and all(abs(a - b) <= tolerance for a, b in cosines)

    def _centre_mm(self) -> tuple[float, ...]:
        half = self.half_extent_mm
        rows = zip(self.origin, self.direction, strict=True)
        return tuple(start + sum(row[k] * half[k] for k in range(self.ndim)) for start, row in rows)

    def resized(self, shape: tuple[int, ...]) -> Grid:
        """The same outermost pixel centres sampled with another number of pixels.

        Corners stay aligned, hence spacing * (n - 1) / (m - 1): the usual n / m moves every pixel but the first.
        """
        if len(shape) != self.ndim or any(m < 2 for m in shape):
            raise ValueError(f"Grid.resized: shape must have {self.ndim} axes of at least 2 pixels, got {shape}")
        spacing = tuple(s * (n - 1) / (m - 1) for s, n, m in zip(self.spacing, self.shape, shape, strict=True))
        return replace(self, shape=tuple(shape), spacing=spacing)

    def enclosing_cube(self, size: int) -> Grid:
        """The cube (square) [-1, 1] of this grid's NORMALISED space, ``size`` pixels a side: what the network sees."""
        if size < 2:
            raise ValueError(f"Grid.enclosing_cube: size must be at least 2 pixels, got {size}")
        centre, unit = self._centre_mm(), self.unit_mm
        origin = tuple(c - unit * sum(row) for c, row in zip(centre, self.direction, strict=True))
        return Grid((size,) * self.ndim, (2 * unit / (size - 1),) * self.ndim, origin, self.direction)

    def convert_points(self, points: Tensor, source: Space, target: Space) -> Tensor:
        """Convert positions.

        Parameters
        ----------
        points
            (..., ndim) floating point, array order, in ``source`` space.

        Returns
        -------
        Tensor
            (..., ndim) in ``target`` space, dtype and device of ``points``.
        """
        self._check_last_axis("convert_points", points)
        if source is target:
            return points
        centre = points.new_tensor(self.centre_index)
        if source is Space.WORLD:
            index = (points - points.new_tensor(self.origin)) @ points.new_tensor(self.direction)
            index = index / points.new_tensor(self.spacing)
        elif source is Space.NORMALISED:
            index = points * points.new_tensor(self._index_per_unit()) + centre
        else:
            index = points
        if target is Space.WORLD:
            steps = index * points.new_tensor(self.spacing)
            return steps @ points.new_tensor(self.direction).T + points.new_tensor(self.origin)
        if target is Space.NORMALISED:
            return (index - centre) / points.new_tensor(self._index_per_unit())
        return index

    def convert_vectors(self, vectors: Tensor, source: Space, target: Space) -> Tensor:
        """Convert differences of positions; like ``convert_points`` but without any offset."""
        self._check_last_axis("convert_vectors", vectors)
        if source is target:
            return vectors
        if source is Space.WORLD:
            index = vectors @ vectors.new_tensor(self.direction) / vectors.new_tensor(self.spacing)
        elif source is Space.NORMALISED:
            index = vectors * vectors.new_tensor(self._index_per_unit())
        else:
            index = vectors
        if target is Space.WORLD:
            return (index * vectors.new_tensor(self.spacing)) @ vectors.new_tensor(self.direction).T
        if target is Space.NORMALISED:
            return index / vectors.new_tensor(self._index_per_unit())
        return index

    def _index_per_unit(self) -> tuple[float, ...]:
        return tuple(self.unit_mm / s for s in self.spacing)

    def _check_last_axis(self, function: str, values: Tensor) -> None:
        if values.shape[-1:] != (self.ndim,) or not values.is_floating_point():
            raise ValueError(
                f"Grid.{function}: expected floating point values of shape (..., {self.ndim}), "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
