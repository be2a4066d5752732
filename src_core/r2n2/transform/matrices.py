"""Algebra of very many small matrices, 2 x 2 or 3 x 3, written out by entries: torch.linalg is slow on them.

A matrix is its rows of entries, each entry a tensor of any one shape that holds that entry of all matrices. So it makes no
difference where in their tensors the callers keep the axes of the matrix, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Rows", "cholesky_rows", "cofactors", "determinant", "rows_of", "solve_symmetric", "symmetric", "upper"]

_SINGULAR = 16.0  # roundings
Rows: TypeAlias = Sequence[Sequence[Tensor]]
"""Entry j of row i is ``rows[i][j]``."""


def upper(ndim: int) -> list[tuple[int, int]]:
    """Places (i, j) on and above the diagonal, row by row: the order in which symmetric matrices are packed."""
    return [(i, j) for i in range(ndim) for j in range(i, ndim)]


def symmetric(entries: Tensor, ndim: int) -> Tensor:
    """(..., ndim, ndim) from the entries (..., ndim (ndim + 1) / 2) in the order of ``upper``."""
    result = entries.new_zeros(*entries.shape[:-1], ndim, ndim)
    for k, (i, j) in enumerate(upper(ndim)):
        result[..., i, j] = entries[..., k]
        result[..., j, i] = entries[..., k]
    return result


def rows_of(matrix: Tensor) -> Rows:
    """The rows of (..., n, n)."""
    return tuple(row.unbind(-1) for row in matrix.unbind(-2))


def determinant(rows: Rows) -> Tensor:
    """Determinant of 2 x 2 or 3 x 3 matrices."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def cofactors(rows: Rows) -> Rows:
    """Cofactors: their transpose over the determinant is the inverse, and they are the determinant's derivative by the entries."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return (d, -c), (-b, a)
    (a, b, c), (d, e, f), (g, h, i) = rows
    return (
        (e * i - f * h, f * g - d * i, d * h - e * g),
        (c * h - b * i, a * i - c * g, b * g - a * h),
        (b * f - c * e, c * d - a * f, a * e - b * d),
    )


def cholesky_rows(entries: Sequence[Tensor], ndim: int) -> Rows:
    """Rows l_k of the transposed Cholesky factor of positive semidefinite matrices: A is the sum of the products l_k l_k'.

    Parameters
    ----------
    entries
        Of A, in the order of ``upper``. Where A is singular to rounding, rows of it are 0.
    """
    left = dict(zip(upper(ndim), entries, strict=True))
    least = [_SINGULAR * torch.finfo(entries[0].dtype).eps * left[k, k] for k in range(ndim)]
    rows = []
    for k in range(ndim):
        pivot = left[k, k]
        # What rounding leaves of a pivot that should be 0 must not divide the rest of its row.
        scale = torch.where(pivot > least[k], pivot, torch.inf).rsqrt()
        row = [left[k, j] * scale if j >= k else torch.zeros_like(scale) for j in range(ndim)]
        for i, j in upper(ndim):
            if i > k:
                left[i, j] = left[i, j] - row[i] * row[j]
        rows.append(row)
    return rows


def solve_symmetric(entries: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """Solution x of A x = b for positive definite A, by its cofactors.

    Parameters
    ----------
    entries
        Of A, in the order of ``upper``.
    right
        Components of b.

    Returns
    -------
    list of Tensor
        Components of x. Where the determinant is smaller than the smallest number of its kind, that number stands for it.
    """
    ndim = len(right)
    # Cofactors and not elimination: no pivot, no branch, and every entry of all matrices is computed at once.
    packed = dict(zip(upper(ndim), entries, strict=True))
    rows = [[packed[min(i, j), max(i, j)] for j in range(ndim)] for i in range(ndim)]
    adjugate = cofactors(rows)  # of a symmetric matrix, its own transpose
    size = determinant(rows).clamp_min(torch.finfo(right[0].dtype).tiny)
    solved = []
    for row in adjugate:
        total = row[0] * right[0]
        for factor, component in zip(row[1:], right[1:], strict=True):
            total = total + factor * component
        solved.append(total / size)
    return solved
