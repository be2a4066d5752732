"""Gaussians, displacements and grids as shapes to draw, in the plane's own unit: pixel index times the layer's scale, (y, x).

All vectors are drawn as the displacement maps: from a point of the reference to where it lies in the frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from r2n2.transform import DisplacementField, GaussianSequence

__all__ = ["Plane", "arrow", "arrow_pieces", "bold", "cropped", "displacement_arrows", "ellipses", "grid_lines", "hit"]

_OUTLINE_PIECES = 40
_LINE_PIECES = 64
_HEAD_SHARE = 0.3
_HEAD_ANGLE = math.radians(25)

Plane = tuple[float, float]
"""Scale of the image layer: length of a pixel along y and x in the layer's unit."""


def ellipses(sequence: GaussianSequence, scale: Plane) -> NDArray[np.float64]:
    """Pieces (start, direction) of the 1-sigma ellipses, (T, pieces, 2, 2)."""
    centres, axes = _ellipses(sequence, scale)
    turn = np.linspace(0, 2 * math.pi, _OUTLINE_PIECES + 1)[:, None, None]
    points = centres + np.cos(turn) * axes[:, 0] + np.sin(turn) * axes[:, 1]
    return np.moveaxis(np.stack((points[:-1], np.diff(points, axis=0)), axis=2), 0, 1)


def bold(pieces: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Pieces (N, 2, 2) drawn thrice side by side, ``width`` apart, as one layer of lines has one width only."""
    along = pieces[:, 1] / np.maximum(np.linalg.norm(pieces[:, 1], axis=1, keepdims=True), 1e-12)
    across = np.stack((-along[:, 1], along[:, 0]), axis=1) * width
    return np.concatenate([np.stack((pieces[:, 0] + side * across, pieces[:, 1]), axis=1) for side in (-1, 0, 1)])


def cropped(pieces: NDArray[np.float64], shape: tuple[int, ...], scale: Plane) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What of pieces (N, 2, 2) lies in an image of ``shape`` pixels, and which of them (N,) that is something of."""
    starts, directions = pieces[:, 0], np.where(pieces[:, 1] == 0, 1e-12, pieces[:, 1])
    # Shares of each piece at which it crosses the lines along the edges: it is inside between the last entry and the first exit.
    crossings = [(edge * np.array(scale) - starts) / directions for edge in (np.full(2, -0.5), np.array(shape) - 0.5)]
    enters = np.minimum(*crossings).max(axis=1).clip(min=0)
    leaves = np.maximum(*crossings).min(axis=1).clip(max=1)
    kept = enters < leaves
    shares = np.stack((enters, leaves - enters), axis=1)[kept, :, None]
    inside = shares * pieces[kept, 1:]
    inside[:, 0] += pieces[kept, 0]
    return inside, kept


def arrow(sequence: GaussianSequence, step: int, scale: Plane) -> NDArray[np.float64]:
    """Pieces of the arrow of v from the centre of one step, (3, 2, 2)."""
    from r2n2.geometry import Space

    centres, _axes = _ellipses(sequence, scale)
    vectors = sequence.grid.convert_vectors(sequence.amplitudes, Space.NORMALISED, Space.INDEX).numpy() * np.array(scale)
    return arrow_pieces(centres[step - 1], vectors[step - 1])


def arrow_pieces(start: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pieces of an arrow with a head, (3, 2, 2)."""
    pieces = [(start, vector)]
    for angle in (math.pi - _HEAD_ANGLE, math.pi + _HEAD_ANGLE):
        cos, sin = math.cos(angle), math.sin(angle)
        y, x = vector
        pieces.append((start + vector, _HEAD_SHARE * np.array([cos * y - sin * x, sin * y + cos * x])))
    return np.array(pieces, dtype=np.float64)


def displacement_arrows(field: DisplacementField, scale: Plane, spacing_px: int) -> NDArray[np.float64]:
    """One (start, direction) a node of a lattice of ``spacing_px`` pixels, (N, 2, 2)."""
    vectors = _vectors(field, scale)
    nodes = _nodes(field, spacing_px)
    starts = np.stack(np.meshgrid(*nodes, indexing="ij"), -1).reshape(-1, 2)
    found = vectors[:, starts[:, 0], starts[:, 1]].T
    return np.stack((starts * np.array(scale), found), axis=1)


def grid_lines(field: DisplacementField, scale: Plane, spacing_px: int) -> NDArray[np.float64]:
    """Pieces of a regular grid that the displacement deforms, (N, 2, 2): lines ``spacing_px`` apart."""
    vectors = _vectors(field, scale)
    height, width = field.grid.shape
    index = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    mapped = np.moveaxis(index * np.array(scale)[:, None, None] + vectors, 0, -1)
    rows, columns = _nodes(field, spacing_px)
    # So many pieces look smooth; more would only take longer to draw.
    along_x, along_y = _thinned(width), _thinned(height)
    lines = [mapped[row][along_x] for row in rows] + [mapped[along_y, column] for column in columns]
    return np.concatenate([_pieces(line) for line in lines])


def hit(sequence: GaussianSequence, scale: Plane, position: tuple[float, float], shown: NDArray[np.bool_]) -> int | None:
    """Step (from 1) of the shown ellipse that holds a position, the one whose centre is nearest in sigmas; None outside all."""
    centres, axes = _ellipses(sequence, scale)
    offset = np.asarray(position) - centres
    # Solving for the share of both axes tells how many sigmas away the position is, whatever the direction.
    shares = np.linalg.solve(np.swapaxes(axes, 1, 2), offset[..., None])[..., 0]
    sigmas = np.where(shown, np.linalg.norm(shares, axis=1), np.inf)
    nearest = int(sigmas.argmin()) if len(sigmas) else 0
    return nearest + 1 if len(sigmas) and sigmas[nearest] <= 1 else None


def _ellipses(sequence: GaussianSequence, scale: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (T, 2) and principal axes (T, axis, 2), one sigma long."""
    from r2n2.geometry import Space
    from r2n2.transform import principal_axes

    grid = sequence.grid
    centres = grid.convert_points(sequence.centres, Space.NORMALISED, Space.INDEX).numpy()
    axes = principal_axes(sequence.orientation) * sequence.sigmas[..., None]
    return centres * np.array(scale), grid.convert_vectors(axes, Space.NORMALISED, Space.INDEX).numpy() * np.array(scale)


def _vectors(field: DisplacementField, scale: Plane) -> NDArray[np.float64]:
    from r2n2.geometry import Space

    vectors: NDArray[np.float64] = field.to_space(Space.INDEX).vectors.numpy() * np.array(scale)[:, None, None]
    return vectors


def _nodes(field: DisplacementField, spacing_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the lattice, centred in the frame."""
    rows, columns = (np.arange((n - 1) % spacing_px // 2, n, spacing_px) for n in field.grid.shape)
    return rows, columns


def _thinned(length: int) -> NDArray[np.int64]:
    return np.unique(np.append(np.arange(0, length, max(length // _LINE_PIECES, 1)), length - 1))


def _pieces(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack((points[:-1], np.diff(points, axis=0)), axis=1)
