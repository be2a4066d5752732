"""The plane in which frames are shown: the frame itself in 2D, a slice of the volume along two of its axes in 3D."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Grid, Space
from r2n2.transform import GaussianSequence, Transform, precision_matrix

__all__ = ["Image", "Motion", "Plane"]

Image = NDArray[np.float32]

_ANATOMICAL = ("axial", "coronal", "sagittal")  # normal along the patient's z, y, x
_COARSE = 40  # samples along the longest axis where motion is looked at as a whole
_AS_MUCH = 0.99
_DARKEST = 0.05


@dataclass(frozen=True)
class Plane:
    """A plane of pixels of a grid, shown with its first array axis downwards and its second to the right.

    Parameters
    ----------
    grid
        Of the frames.
    normal, index
        The array axis that the plane is perpendicular to, and where on it; None and 0 for 2D frames.
    upright
        Rows are shown from the last to the first, so that the head is up.
    name
        What to call it; "" for 2D frames.
    """

    grid: Grid
    normal: int | None = None
    index: int = 0
    upright: bool = False
    name: str = ""

    @classmethod
    def of(cls, grid: Grid, normal: int, index: int, *, patient: bool) -> Plane:
        """The plane of a volume; ``patient`` says whether its world axes are those of a patient (LPS), which names it."""
        rows = 0 if normal != 0 else 1
        direction = np.array(grid.direction)
        if not patient:
            return cls(grid, normal, index, name=f"{'xy' if normal == 0 else 'xz' if normal == 1 else 'yz'} plane")
        name = _ANATOMICAL[int(np.abs(direction[:, normal]).argmax())]
        # World z of LPS points to the head.
        return cls(grid, normal, index, upright=bool(direction[0, rows] > math.sqrt(0.5)), name=name)

    @property
    def axes(self) -> tuple[int, int]:
        """Array axes of its rows and columns."""
        first, second = (axis for axis in range(self.grid.ndim) if axis != self.normal)
        return first, second

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Of its rows and columns."""
        rows, columns = self.axes
        return self.grid.spacing[rows], self.grid.spacing[columns]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        rows, columns = self.axes
        return self.grid.shape[rows], self.grid.shape[columns]

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """(..., *grid.shape) as it is seen, (..., H, W)."""
        if self.normal is not None:
            values = np.take(values, self.index, axis=values.ndim - self.grid.ndim + self.normal)
        return values[..., ::-1, :] if self.upright else values

    def image(self, frame: NDArray[Any]) -> Image:
        """A frame (C, *grid.shape) as one (H, W) image: the mean of its colours."""
        seen = self.cut(frame)
        colours = seen[:3] if seen.shape[0] in (3, 4) else seen
        return np.asarray(
            np.abs(colours).mean(axis=0) if np.iscomplexobj(colours) else colours.astype(np.float32).mean(axis=0), np.float32
        )

    def displacement_mm(self, transform: Transform, upto: int | None = None) -> Image:
        """(2, H, W) in mm downwards and to the right, of the first ``upto`` steps of a sequence or of all."""
        if isinstance(transform, GaussianSequence) and upto is not None:
            transform = transform.select(slice(0, upto))
        rows, columns = self.shape
        places = torch.zeros(rows, columns, self.grid.ndim)
        lattice = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
        for axis, along in zip(self.axes, lattice, strict=True):
            places[..., axis] = along
        if self.normal is not None:
            places[..., self.normal] = self.index
        vectors = _displacement_mm(transform, places.flatten(0, 1)).unflatten(0, (rows, columns))
        seen = np.stack([vectors[..., axis].numpy() for axis in self.axes])
        if self.upright:
            seen = seen[:, ::-1] * np.array([-1.0, 1.0], np.float32)[:, None, None]
        return np.asarray(seen, np.float32)

    def outlines_mm(self, sequence: GaussianSequence) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The Gaussians as they are seen: what their standard deviation looks like when the volume is looked through.

        Returns
        -------
        tuple of arrays
            Centres (T, 2) in mm, downwards and to the right of the first pixel seen; covariances (T, 2, 2) in mm^2, of the
            Gaussians' projections; and heights (T,) in [0, 1]: how much of each is left in this plane, 1 in 2D.
        """
        grid, seen = self.grid, list(self.axes)
        spacing = np.array(grid.spacing)
        centres = grid.convert_points(sequence.centres.double(), Space.NORMALISED, Space.INDEX).numpy() * spacing
        inverse = torch.linalg.inv(precision_matrix(sequence.sigmas, sequence.orientation).double()).numpy() * grid.unit_mm**2
        covariances = inverse[:, seen][:, :, seen]
        places, heights = centres[:, seen], np.ones(len(centres))
        if self.normal is not None:
            away = centres[:, self.normal] - self.index * spacing[self.normal]
            heights = np.exp(-0.5 * away**2 / inverse[:, self.normal, self.normal])
        if self.upright:
            places[:, 0] = (self.shape[0] - 1) * self.spacing_mm[0] - places[:, 0]
            covariances = covariances * np.array([[1.0, -1.0], [-1.0, 1.0]])
        return places, covariances, heights


class Motion:
    """Where volumes move, and along which axes: the sum of the displacements of some frames on a coarse lattice.

    Parameters
    ----------
    grid
        Of the frames, 3D.
    transforms
        At least one.
    patient
        Whether the world axes are those of a patient.
    image
        (*grid.shape) the reference: what moves counts by its brightness, so that air, which may move as it likes, is not shown.
        None where all counts alike.
    """

    def __init__(
        self, grid: Grid, transforms: Iterable[Transform], *, patient: bool, image: NDArray[np.floating] | None = None
    ) -> None:
        self._grid, self._patient = grid, patient
        self._factor = [max(1.0, (n - 1) / (_COARSE - 1)) for n in grid.shape]
        axes = [torch.arange(int((n - 1) // f) + 1) * f for n, f in zip(grid.shape, self._factor, strict=True)]
        self._places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        self._sum = torch.zeros_like(self._places)
        for transform in transforms:
            self._sum += self._on_lattice(transform).abs()
        if image is not None:
            self._sum *= self._brightness(image)[..., None]

    def _brightness(self, image: NDArray[np.floating]) -> torch.Tensor:
        """Means of blocks above the darkest of them, on the lattice."""
        volume = torch.from_numpy(np.nan_to_num(np.asarray(image, np.float32)))[None, None]
        means = torch.nn.functional.interpolate(volume, size=self._places.shape[:3], mode="area")[0, 0]
        return (means - means.quantile(_DARKEST)).clamp_min(0)

    def _on_lattice(self, transform: Transform) -> torch.Tensor:
        return _displacement_mm(transform, self._places.flatten(0, 2)).unflatten(0, self._places.shape[:3])

    @property
    def centre(self) -> tuple[int, int, int]:
        """(z, y, x) of the voxel about which most of it happens: on every axis, the slice that moves most."""
        length = self._sum.norm(dim=-1)
        found = []
        for axis in range(3):
            amount = length.sum(dim=[other for other in range(3) if other != axis])
            middle = (len(amount) - 1) / 2
            # Where all moves alike, as by a shift of the whole, the middle is worth more than an edge.
            most = (amount >= _AS_MUCH * amount.max()).nonzero()[:, 0].tolist()
            best = min(most, key=lambda place: abs(place - middle))
            found.append(min(round(best * self._factor[axis]), self._grid.shape[axis] - 1))
        return found[0], found[1], found[2]

    @property
    def planes(self) -> tuple[Plane, Plane, Plane]:
        """The three planes through ``centre``, that of the largest motion first."""
        along, centre = self._sum.sum(dim=(0, 1, 2)), self.centre
        # Perpendicular to the axis along which the least happens.
        order = sorted(range(3), key=lambda axis: float(along[axis]))
        first, second, third = (Plane.of(self._grid, axis, centre[axis], patient=self._patient) for axis in order)
        return first, second, third

    def projected(self, transform: Transform, plane: Plane) -> tuple[Image, tuple[float, float]]:
        """The longest displacement in mm behind every point of a plane, (h, w), and the spacing of its rows and columns in mm."""
        assert plane.normal is not None
        length = self._on_lattice(transform).norm(dim=-1).amax(dim=plane.normal).numpy()
        rows, columns = plane.axes
        spacing = (self._factor[rows] * self._grid.spacing[rows], self._factor[columns] * self._grid.spacing[columns])
        return np.asarray(length[::-1] if plane.upright else length, np.float32), spacing


def _displacement_mm(transform: Transform, places: torch.Tensor) -> torch.Tensor:
    """(P, ndim) along the array axes, in mm, at (P, ndim) INDEX."""
    grid = transform.grid
    found = transform.displacement_at(grid.convert_points(places, Space.INDEX, Space.NORMALISED)).detach().cpu()
    # NORMALISED space has the same unit along every axis.
    return found * grid.unit_mm
