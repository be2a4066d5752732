"""What is drawn of a registered volume in the plane on the screen: sections of ellipsoids, displacements, deformed grids.

Pieces are (start, direction), (N, 2, 3) in mm along z, y, x from the first voxel. They lie in the plane and run along it, but for
those of the 3D view. Vectors point from the reference to the frame; what of them leads out of the plane is not seen in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers import overlays
from napari_r2n2.layers.ellipsoids import centres_and_axes, nearest, sections, surfaces, vectors
from napari_r2n2.layers.gaussian_lines import gaussian_colours, step_colours
from napari_r2n2.layers.shown_plane import ShownPlane

if TYPE_CHECKING:
    from r2n2.transform import GaussianSequence

__all__ = ["VolumeLines"]

_OUTLINE_PIECES = 48
_LINE_PIECES = 64
_MOST_ARROWS_IN_SPACE = 2500
# Of the longest arrow: shorter ones only hide the others.
_LEAST_LENGTH_IN_SPACE = 0.05
# Opacity of the surface of the Gaussian that moves most; those that move less fade, as a hundred of them would hide the image.
_SURFACE, _SURFACE_SELECTED = 0.4, 0.9
_FADING = 2.0
# Fainter ones are left out.
_LEAST_SURFACE = 0.01

_Number = TypeVar("_Number", int, float)

DisplacementAt = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Points (P, 3) -> displacements (P, 3), both in voxels."""


class VolumeLines:
    """Lines of one plane of a volume.

    Parameters
    ----------
    plane
        On the screen.
    shape
        Voxels along z, y, x.
    scale
        Of the image layer along z, y, x.
    """

    def __init__(self, plane: ShownPlane, shape: tuple[int, ...], scale: tuple[float, ...]) -> None:
        self.plane, self.shape, self.scale = plane, shape, scale

    # Gaussians

    def gaussians(
        self, sequence: GaussianSequence, enabled: NDArray[np.bool_], step: int, selected: int | None, width: float, colormap: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ellipses in which the plane cuts the surfaces at one standard deviation, and their colours (N, 4).

        Arguments are those of ``gaussian_lines``. A Gaussian that the plane does not cut is not drawn; the arrow of the selected
        one is its displacement in the plane, from the middle of its ellipse.
        """
        centres, axes = centres_and_axes(sequence, self.scale)
        found = sections(centres, axes, self.plane.across, self._position())
        turn = np.linspace(0, 2 * math.pi, _OUTLINE_PIECES + 1)[:, None, None]
        points = found.centres + np.cos(turn) * found.axes[:, 0] + np.sin(turn) * found.axes[:, 1]
        outlines = np.moveaxis(np.stack((points[:-1], np.diff(points, axis=0)), axis=2), 0, 1)
        pieces, kept = overlays.cropped(outlines[found.cut].reshape(-1, 2, 2), self._sides(self.shape), self._sides(self.scale))
        colours = np.repeat(gaussian_colours(enabled, step, selected, colormap)[found.cut], _OUTLINE_PIECES, axis=0)[kept]
        if selected is not None and selected <= len(sequence) and found.cut[selected - 1]:
            along = vectors(sequence, self.scale)[selected - 1][list(self.plane.axes)]
            arrow = overlays.arrow_pieces(found.centres[selected - 1], along)
            own = overlays.bold(np.concatenate((outlines[selected - 1], arrow)), width)
            colour = step_colours(colormap, len(sequence))[selected - 1]
            pieces = np.concatenate((pieces, own))
            colours = np.concatenate((colours, np.broadcast_to(colour, (len(own), 4))))
        return self._in_volume(pieces), colours

    def surfaces(
        self, sequence: GaussianSequence, enabled: NDArray[np.bool_], step: int, selected: int | None, colormap: str
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Surfaces at one standard deviation in space: vertices in mm, faces, colours of the vertices.

        Steps to come, what is switched off and what hardly moves anything have none; the less one moves, the fainter it is.
        """
        colours = gaussian_colours(enabled, step, selected, colormap)
        lengths = np.linalg.norm(vectors(sequence, self.scale), axis=1)
        colours[:, 3] = _SURFACE * (lengths / max(float(lengths.max()), 1e-9)) ** _FADING
        seen = enabled & (np.arange(len(sequence)) < step) & (colours[:, 3] > _LEAST_SURFACE)
        if selected is not None and selected <= len(sequence):
            colours[selected - 1, 3], seen[selected - 1] = _SURFACE_SELECTED, bool(enabled[selected - 1])
        centres, axes = centres_and_axes(sequence, self.scale)
        vertices, faces = surfaces(centres[seen], axes[seen])
        return vertices, faces, np.repeat(colours[seen], len(vertices) // max(int(seen.sum()), 1), axis=0)

    def hit(self, sequence: GaussianSequence, position: NDArray[np.float64], shown: NDArray[np.bool_]) -> int | None:
        """Step (from 1) of the ellipse that holds a position z, y, x in mm from the first voxel."""
        where = position.copy()
        where[self.plane.across] = self._position()
        return nearest(*centres_and_axes(sequence, self.scale), where, shown)

    # Displacements

    def arrows(self, displacement_at: DisplacementAt, spacing_mm: float) -> NDArray[np.float64]:
        """The displacement, true to scale: one arrow a node of a lattice of about this distance."""
        if self.plane.in_space:
            volume = math.prod(n * step for n, step in zip(self.shape, self.scale, strict=True))
            spacing_mm = max(spacing_mm, (volume / _MOST_ARROWS_IN_SPACE) ** (1 / 3))
        nodes = [
            np.array([self.plane.index]) if axis == self.plane.across and not self.plane.in_space else self._nodes(axis, spacing_mm)
            for axis in range(3)
        ]
        starts = np.stack(np.meshgrid(*nodes, indexing="ij"), -1).reshape(-1, 3).astype(np.float64)
        found = np.stack((starts, displacement_at(starts)), axis=1) * np.array(self.scale)
        if self.plane.in_space:
            lengths = np.linalg.norm(found[:, 1], axis=1)
            return found[lengths > _LEAST_LENGTH_IN_SPACE * max(float(lengths.max(initial=0)), 1e-9)]
        return self._flat(found)

    def grid_lines(self, displacement_at: DisplacementAt, lines_along: int) -> NDArray[np.float64]:
        """A regular grid of the plane as the displacement deforms it, so many lines along its longer side."""
        extents = [self.shape[axis] * self.scale[axis] for axis in self.plane.axes]
        spacing_mm = max(extents) / lines_along
        lines = []
        for fixed, along in (self.plane.axes, self.plane.axes[::-1]):
            steps = np.linspace(0, self.shape[along] - 1, min(self.shape[along], _LINE_PIECES + 1))
            for node in self._nodes(fixed, spacing_mm):
                line = np.empty((len(steps), 3))
                line[:, self.plane.across], line[:, fixed], line[:, along] = self.plane.index, node, steps
                lines.append(line)
        ends = np.cumsum([len(line) for line in lines])[:-1]
        points = np.concatenate(lines)
        mapped = (points + displacement_at(points)) * np.array(self.scale)
        pieces = np.concatenate(
            [np.stack((line[:-1], np.diff(line, axis=0)), axis=1) for line in np.split(mapped, ends)], dtype=np.float64
        )
        return pieces if self.plane.in_space else self._flat(pieces)

    # Into the plane

    def _position(self) -> float:
        return self.plane.index * self.scale[self.plane.across]

    def _sides(self, values: tuple[_Number, ...]) -> tuple[_Number, _Number]:
        first, second = self.plane.axes
        return values[first], values[second]

    def _nodes(self, axis: int, spacing_mm: float) -> NDArray[np.int64]:
        """Voxels of a lattice along an axis, in its middle."""
        count, step = self.shape[axis], max(1, round(spacing_mm / self.scale[axis]))
        return np.arange((count - 1) % step // 2, count, step)

    def _flat(self, pieces: NDArray[np.float64]) -> NDArray[np.float64]:
        pieces = pieces.copy()
        pieces[:, 0, self.plane.across], pieces[:, 1, self.plane.across] = self._position(), 0
        return pieces

    def _in_volume(self, pieces: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pieces (N, 2, 2) of the plane as pieces of the volume."""
        found = np.zeros((len(pieces), 2, 3))
        found[:, 0, self.plane.across] = self._position()
        found[:, :, list(self.plane.axes)] = pieces
        return found
