"""Trees of vessels that fill an organ: each branch feeds a territory, which is halved again and again.

As Tawhai, Pullan and Hunter (Ann Biomed Eng 28, 2000) grow airways into the lobes of a lung: a branch runs towards the centre of
the points that it feeds; a plane halves them, and each half gets a daughter. Radii follow Murray's law (1926): the cube of
the radius is the number of points fed, so that the cubes of daughters add up to the mother's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.simulation.texture import FloatArray

__all__ = ["Tree", "fill_territory"]

_FIRST_WAY, _WAY = 0.3, 0.42  # share of the way to the territory's centre after which a branch divides
_BEND = 0.09  # sideways way of a branch's middle over its length
_PIECE_MM = 9.0


@dataclass(frozen=True, eq=False)
class Tree:
    """Tubes and branchings of a tree.

    Parameters
    ----------
    segments
        (N, 8): z, y, x, radius of both ends in mm.
    orders
        (N,) number of divisions between the root and the segment.
    branchings
        (M, 4): z, y, x and radius in mm where a vessel divides.
    """

    segments: FloatArray
    orders: NDArray[np.int64]
    branchings: FloatArray


def fill_territory(rng: np.random.Generator, root: FloatArray, points: FloatArray, end_radius_mm: float) -> Tree:
    """Grow a tree from a root (3,) to all points (N, 3) of a territory, of which each ends in ``end_radius_mm``."""
    branches: list[tuple[FloatArray, FloatArray, int, int]] = []
    pending: list[tuple[FloatArray, FloatArray, int]] = [(np.asarray(root, dtype=np.float64), points, 0)]
    while pending:
        start, fed, order = pending.pop()
        if len(fed) == 1:
            branches.append((start, fed[0], 1, order))
            continue
        centre = fed.mean(axis=0)
        stop = start + (_WAY if order else _FIRST_WAY) * (centre - start)
        branches.append((start, stop, len(fed), order))
        pending += [(stop, half, order + 1) for half in _halves(rng, fed - centre, fed, centre - start)]
    starts, stops = np.array([branch[0] for branch in branches]), np.array([branch[1] for branch in branches])
    counts, orders = np.array([branch[2] for branch in branches]), np.array([branch[3] for branch in branches])
    radii = end_radius_mm * np.cbrt(counts)
    divided = counts > 1
    segments, pieces = _bent(rng, starts, stops, radii)
    return Tree(segments, np.repeat(orders, pieces), np.column_stack((stops[divided], radii[divided])))


def _halves(
    rng: np.random.Generator, offsets: FloatArray, points: FloatArray, direction: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Points on both sides of a plane that nearly holds the branch's direction, across the territory's longest extent.

    Parameters
    ----------
    offsets
        (N, 3) the points from their centre.
    """
    if len(points) == 2:
        return points[:1], points[1:]
    square = float(direction @ direction)
    across = offsets - (0.8 * (offsets @ direction) / max(square, 1e-12))[:, None] * direction
    normal = np.linalg.eigh(across.T @ across)[1][:, -1]
    order = (offsets @ normal).argsort(kind="stable")
    share = rng.uniform(0.36, 0.64) if len(points) > 3 else 0.5
    cut = min(max(round(share * len(points)), 1), len(points) - 1)
    return points[order[:cut]], points[order[cut:]]


def _bent(
    rng: np.random.Generator, starts: FloatArray, stops: FloatArray, radii: FloatArray
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Slightly bent branches as straight pieces (K, 8) that keep their radius, and how many pieces each has (N,)."""
    ways = stops - starts
    lengths = np.linalg.norm(ways, axis=1)
    pieces = np.clip(np.rint(lengths / _PIECE_MM), 1, 6).astype(np.int64)
    sideways = rng.normal(0, 1, ways.shape) * (_BEND * lengths * (pieces > 1))[:, None]
    branch = np.repeat(np.arange(len(pieces)), pieces)
    number = np.arange(len(branch)) - np.repeat(np.cumsum(pieces) - pieces, pieces)

    def place(share: FloatArray) -> FloatArray:
        s = share[:, None]
        return np.asarray(starts[branch] + s * ways[branch] + 4 * s * (1 - s) * sideways[branch])

    first, last = place(number / pieces[branch]), place((number + 1) / pieces[branch])
    thick = radii[branch][:, None]
    return np.concatenate((first, thick, last, thick), axis=1), pieces
