"""Extreme eigenvalues of many small symmetric matrices: in closed form in 2D, where a general solver takes most of the time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest_eigenvalue", "smallest_eigenvalue"]


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    """(...) of symmetric matrices (..., n, n)."""
    return _extreme(matrix, 1)


def smallest_eigenvalue(matrix: Tensor) -> Tensor:
    """(...) of symmetric matrices (..., n, n)."""
    return _extreme(matrix, -1)


def _extreme(matrix: Tensor, sign: int) -> Tensor:
    if matrix.shape[-1] != 2:
        return torch.linalg.eigvalsh(matrix)[..., -1 if sign > 0 else 0]
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    return 0.5 * (a + c + sign * torch.hypot(a - c, 2 * b))
