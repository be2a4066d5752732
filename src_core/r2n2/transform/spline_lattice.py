"""From a coarse square lattice to one of another size, by the cubic spline through the coarse values: one matrix for every axis.

Smooth fields, such as sums of Gaussians no narrower than the coarse lattice's pitch, need not be computed anew on every lattice.
Both lattices run over [-1, 1] on their outermost points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2n2.transform.bspline import bspline_basis

__all__ = ["on_lattice", "spline_matrix"]

# With 4 points the two conditions at the ends are one and the same.
_FEWEST = 5


def spline_matrix(size: int, coarse: int, like: Tensor) -> Tensor:
    """(size, coarse) values at linspace(-1, 1, size) of the not-a-knot cubic spline (de Boor 1978) through those at coarse points.

    Polynomials of up to the third degree stay exact.

    Parameters
    ----------
    size, coarse
        Numbers of points, the second at least 5.
    like
        Of the device and dtype that are wanted.

    Raises
    ------
    ValueError
        If the coarse lattice has too few points.
    """
    if coarse < _FEWEST:
        raise ValueError(f"spline_matrix: this spline goes through at least {_FEWEST} points, got {coarse}")
    control = coarse + 2
    through = bspline_basis(torch.linspace(0, 1, coarse, dtype=torch.float64), control)
    ends = torch.zeros(2, control, dtype=torch.float64)
    # The third derivative does not jump at the second and the last but one point.
    ends[0, :5] = ends[1, -5:] = torch.tensor([1.0, -4.0, 6.0, -4.0, 1.0], dtype=torch.float64)
    values = torch.cat((torch.eye(coarse, dtype=torch.float64), torch.zeros(2, coarse, dtype=torch.float64)))
    controls = torch.linalg.solve(torch.cat((through, ends)), values)
    return (bspline_basis(torch.linspace(0, 1, size, dtype=torch.float64), control) @ controls).to(like)


def on_lattice(field: Tensor, matrix: Tensor) -> Tensor:
    """A field (B, C, *coarse) on the lattice of ``spline_matrix`` (size, coarse), (B, C, *size), all axes alike."""
    for axis in range(2, field.ndim):
        last = axis == field.ndim - 1
        field = field @ matrix.mT if last else (matrix @ field.flatten(axis + 1)).unflatten(axis + 1, field.shape[axis + 1 :])
    return field
