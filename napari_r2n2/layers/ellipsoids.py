"""Gaussians of volumes as ellipsoids: their surfaces, and the ellipses in which a plane cuts these.

Positions are in mm along z, y, x from the first voxel: voxel times the scale of the layer. The surface at r standard deviations of
a Gaussian with centre c and covariance S is (x - c)' S^-1 (x - c) = r^2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from r2n2.transform import GaussianSequence

__all__ = ["Sections", "centres_and_axes", "nearest", "sections", "surfaces", "vectors"]

_RINGS, _MERIDIANS = 12, 20


class Sections(NamedTuple):
    """What a plane cuts out of T ellipsoids: T ellipses, of which those that are not ``cut`` mean nothing."""

    centres: NDArray[np.float64]
    """(T, 2) along the two axes of the plane."""
    axes: NDArray[np.float64]
    """(T, 2, 2) half axes: row k is the k-th, as a vector."""
    cut: NDArray[np.bool_]
    """(T,)."""


def centres_and_axes(sequence: GaussianSequence, scale: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (T, 3) and principal axes (T, axis, 3), one standard deviation long."""
    from r2n2.geometry import Space
    from r2n2.transform import principal_axes

    grid = sequence.grid
    centres = grid.convert_points(sequence.centres.double(), Space.NORMALISED, Space.INDEX).numpy()
    axes = principal_axes(sequence.orientation.double()) * sequence.sigmas.double()[..., None]
    return centres * np.array(scale), grid.convert_vectors(axes, Space.NORMALISED, Space.INDEX).numpy() * np.array(scale)


def vectors(sequence: GaussianSequence, scale: tuple[float, ...]) -> NDArray[np.float64]:
    """Displacement at the centres, (T, 3)."""
    from r2n2.geometry import Space

    found = sequence.grid.convert_vectors(sequence.amplitudes.double(), Space.NORMALISED, Space.INDEX)
    return np.asarray(found.numpy() * np.array(scale), np.float64)


def sections(
    centres: NDArray[np.float64], axes: NDArray[np.float64], across: int, position: float, radius: float = 1.0
) -> Sections:
    """Where the plane ``position`` along axis ``across`` cuts the surfaces at ``radius`` standard deviations.

    On the plane, (x - c)' S^-1 (x - c) is d^2 / S_aa + (u - m)' C^-1 (u - m), with d the distance of the plane from the centre,
    u the position in it, m = c_b + S_ba d / S_aa and C = S_bb - S_ba S_ab / S_aa: mean and covariance of a normal distribution
    that is conditioned on one coordinate (Bishop 2006, equations 2.81 and 2.82). So the section is an ellipse about m with the
    half axes of C times the root of r^2 - d^2 / S_aa, and there is none where that is negative.
    """
    covariance = np.einsum("tki,tkj->tij", axes, axes)
    plane = [axis for axis in range(3) if axis != across]
    own, mixed = covariance[:, across, across], covariance[:, plane, across]
    away = position - centres[:, across]
    left = radius**2 - away**2 / own
    middles = centres[:, plane] + mixed * (away / own)[:, None]
    conditional = covariance[:, plane][:, :, plane] - mixed[:, :, None] * mixed[:, None] / own[:, None, None]
    squares, directions = np.linalg.eigh(conditional)
    lengths = np.sqrt(squares.clip(min=0) * left.clip(min=0)[:, None])
    return Sections(middles, np.swapaxes(directions, 1, 2) * lengths[:, :, None], left > 0)


def surfaces(centres: NDArray[np.float64], axes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Triangles of all ellipsoids as one mesh: vertices (T * V, 3) and faces (T * F, 3), those of an ellipsoid together."""
    points, faces = _sphere()
    vertices = centres[:, None] + points @ axes
    each = faces[None] + len(points) * np.arange(len(centres))[:, None, None]
    return vertices.reshape(-1, 3), each.reshape(-1, 3)


def nearest(
    centres: NDArray[np.float64], axes: NDArray[np.float64], position: NDArray[np.float64], shown: NDArray[np.bool_]
) -> int | None:
    """Step (from 1) of the shown ellipsoid that holds a position, the one whose centre is nearest in sigmas; None outside all."""
    if not len(centres):
        return None
    shares = np.linalg.solve(np.swapaxes(axes, 1, 2), (position - centres)[..., None])[..., 0]
    sigmas = np.where(shown, np.linalg.norm(shares, axis=1), np.inf)
    found = int(sigmas.argmin())
    return found + 1 if sigmas[found] <= 1 else None


def _sphere() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (V, 3) and faces (F, 3) of the unit sphere, by rings and meridians; the faces look outward."""
    polar = np.linspace(0, math.pi, _RINGS + 1)[:, None]
    turn = np.linspace(0, 2 * math.pi, _MERIDIANS, endpoint=False)
    points = np.stack(np.broadcast_arrays(np.cos(polar), np.sin(polar) * np.sin(turn), np.sin(polar) * np.cos(turn)), axis=-1)
    rows, columns = np.meshgrid(np.arange(_RINGS), np.arange(_MERIDIANS), indexing="ij")
    following = (columns + 1) % _MERIDIANS
    a, b, c, d = (
        row * _MERIDIANS + column
        for row, column in ((rows, columns), (rows + 1, columns), (rows + 1, following), (rows, following))
    )
    faces = np.concatenate((np.stack((a, b, c), -1).reshape(-1, 3), np.stack((a, c, d), -1).reshape(-1, 3)))
    return points.reshape(-1, 3), faces
