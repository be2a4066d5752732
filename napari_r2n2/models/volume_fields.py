"""Images that follow from the transforms of volumes, computed for the part that is looked at and for nothing else.

A part is a slice of voxels along every axis z, y, x: a plane of one voxel across while slices are looked at, all in the 3D view.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from napari_r2n2.models.registration import FrameKey, Registration
    from r2n2.geometry import Grid
    from r2n2.transform import GaussianSequence, Transform

__all__ = ["Part", "VolumeFields"]

Part = tuple[slice, ...]
"""First and last voxel along z, y, x, as a slice with both ends."""

_KEPT_BYTES = 2**28
_KEPT_FRAMES = 2
# Of the voxels of a volume: beyond it the whole is computed at once, which is quicker voxel by voxel.
_LARGE_SHARE = 0.25
# A Gaussian that lies more standard deviations away than this adds less than 2e-8 of its amplitude.
_REACH = 6.0


class VolumeFields:
    """As ``FrameFields``, of volumes: ``upto`` counts steps, frames that are not ready are shown undeformed.

    What was computed last is kept, up to 256 MiB, beside the two frames that were read last.
    """

    def __init__(self, registration: Registration) -> None:
        self._registration = registration
        self._kept: OrderedDict[tuple[Any, ...], NDArray[Any]] = OrderedDict()
        self._frames: OrderedDict[FrameKey, NDArray[Any]] = OrderedDict()

    @property
    def registration(self) -> Registration:
        """The run whose images these are."""
        return self._registration

    def displacement_at(self, key: FrameKey, upto: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Displacement (P, 3) in voxels at points (P, 3) in voxels, after so many steps; exact, not interpolated."""
        import torch

        from r2n2.geometry import Space

        transform, grid = self._after(key, upto), self._grid(key)
        if transform is None:
            return np.zeros(points.shape)
        positions = grid.convert_points(torch.from_numpy(np.asarray(points, np.float64)), Space.INDEX, Space.NORMALISED)
        vectors = grid.convert_vectors(transform.displacement_at(positions), Space.NORMALISED, Space.INDEX)
        return np.asarray(vectors.numpy(), np.float64)

    def warped(self, key: FrameKey, upto: int, part: Part) -> NDArray[Any]:
        """The frame aligned by the first ``upto`` steps, (C, *part) in the dtype of the series."""

        def compute() -> NDArray[Any]:
            frame, transform = self._frame(key), self._after(key, upto)
            if transform is None:
                return np.array(frame[(slice(None), *part)])
            from r2n2.registration import sample_pixels, warp_pixels

            if self._is_large(key, part):
                return warp_pixels(frame, transform)[(slice(None), *part)]
            lattice, vectors = self._vectors(key, transform, part)
            return sample_pixels(frame, lattice + vectors, transform.grid)

        return self._keep(("warped", key, upto, *_ends(part)), key, compute)

    def fixed(self, key: FrameKey, part: Part) -> NDArray[Any]:
        """The reference, the frame itself while that is unknown, (C, *part)."""
        reference = self._registration.references.get(key.slice_index, key.frame)
        return self.warped(key._replace(frame=reference), 0, part)

    def magnitude(self, key: FrameKey, upto: int, part: Part) -> NDArray[np.float32]:
        """Length of the displacement in mm."""

        def compute() -> NDArray[np.float32]:
            from r2n2.geometry import Space

            transform = self._after(key, upto)
            if transform is None:
                return np.zeros(_shape(part), np.float32)
            vectors = self._vectors(key, transform, part)[1].movedim(0, -1)
            return np.asarray(transform.grid.convert_vectors(vectors, Space.NORMALISED, Space.WORLD).norm(dim=-1).numpy())

        return self._keep(("magnitude", key, upto, *_ends(part)), key, compute)

    def jacobian(self, key: FrameKey, upto: int, part: Part) -> NDArray[np.float32]:
        """Jacobian determinant between the voxels, of cells: the least of a cell where the cell folds, else its mean."""

        def compute() -> NDArray[np.float32]:
            from r2n2.transform import cell_determinants

            transform = self._after(key, upto)
            if transform is None:
                return np.ones(_shape(part), np.float32)
            corners = tuple(slice(along.start, along.stop + 1) for along in part)
            lattice, vectors = self._vectors(key, transform, corners)
            cell = float(np.prod([step / transform.grid.unit_mm for step in transform.grid.spacing]))
            found = cell_determinants((lattice + vectors)[None], cell)[0].numpy()
            least = found.min(0)
            return np.where(least <= 0, least, found.mean(0))

        return self._keep(("jacobian", key, upto, *_ends(part)), key, compute)

    def residual(self, key: FrameKey, upto: int, part: Part) -> NDArray[np.float32]:
        """Warped frame minus reference; channels are averaged; 0 while the reference is unknown."""
        reference = self._registration.references.get(key.slice_index)
        if reference is None:
            return np.zeros(_shape(part), np.float32)
        difference = self.warped(key, upto, part).astype(np.float32) - self.fixed(key, part).astype(np.float32)
        return difference.mean(0)

    def uncertainty(self, key: FrameKey, _upto: int, part: Part) -> NDArray[np.float32]:
        """Radius in mm of 90 % probability, of the whole sequence; NaN where it is not known."""
        result, grid = self._registration.results.get(key), self._grid(key)
        if result is None or result.uncertainty is None or key in self._registration.switched_off:
            return np.full(_shape(part), np.nan, np.float32)
        known = result.uncertainty
        return self._keep(("uncertainty", key), key, lambda: known.on(grid).numpy())[part]

    def checkerboard(self, key: FrameKey, upto: int, part: Part, squares: int) -> NDArray[Any]:
        """Reference and warped frame in turn on cubes, ``squares`` along the longest side, (C, *part)."""
        grid = self._grid(key)
        side_mm = max(n * step for n, step in zip(grid.shape, grid.spacing, strict=True)) / squares
        along = [
            np.floor(np.arange(p.start, p.stop) * step / side_mm).astype(int) for p, step in zip(part, grid.spacing, strict=True)
        ]
        z, y, x = np.ix_(*along)
        mine = ((z + y + x) % 2).astype(bool)
        return np.where(mine, self.warped(key, upto, part), self.fixed(key, part))

    # What all of these are made of

    def _grid(self, key: FrameKey) -> Grid:
        return self._registration.series[key.slice_index].grid

    def _after(self, key: FrameKey, upto: int) -> Transform | None:
        """The transform of the first ``upto`` steps; None where it moves nothing."""
        from r2n2.transform import GaussianSequence

        registration = self._registration
        transform, sequence = registration.transform(key), registration.sequence(key)
        if transform is None or upto <= 0:
            return None
        if sequence is None:
            return transform
        assert isinstance(transform, GaussianSequence)
        on = registration.enabled(key)
        left = transform if upto >= len(sequence) else transform.select(slice(0, int(on[:upto].sum())))
        return left if len(left) or left.linear is not None else None

    def _is_large(self, key: FrameKey, part: Part) -> bool:
        return float(np.prod(_shape(part))) > _LARGE_SHARE * float(np.prod(self._grid(key).shape))

    def _vectors(self, key: FrameKey, transform: Transform, part: Part) -> tuple[Tensor, Tensor]:
        """Positions and displacement of the voxels of a part, both (3, *part) NORMALISED."""
        from r2n2.geometry import Space
        from r2n2.transform import GaussianSequence

        lattice = self._lattice(transform.grid, part)
        if self._is_large(key, part):
            vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[(slice(None), *part)]
        elif isinstance(transform, GaussianSequence):
            vectors = _near(transform, lattice).on_lattice(lattice)
        else:
            vectors = transform.displacement_at(lattice.flatten(1).mT).mT.unflatten(1, lattice.shape[1:])
        return lattice, vectors

    @staticmethod
    def _lattice(grid: Grid, part: Part) -> Tensor:
        import torch

        from r2n2.transform import normalised_axes

        axes = normalised_axes(grid, torch.zeros(()))
        return torch.stack(torch.meshgrid(*(axis[along] for axis, along in zip(axes, part, strict=True)), indexing="ij"))

    def _frame(self, key: FrameKey) -> NDArray[Any]:
        """(C, *shape) as it came; a slider that runs through a volume does not read it anew for each slice."""
        if key in self._frames:
            self._frames.move_to_end(key)
        else:
            self._frames[key] = self._registration.series[key.slice_index].frame(key.frame)
            if len(self._frames) > _KEPT_FRAMES:
                self._frames.popitem(last=False)
        return self._frames[key]

    def _keep(self, name: tuple[Any, ...], key: FrameKey, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        name = (*name, self._registration.revision(key))
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        found = self._kept[name] = compute()
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return found


def _near(sequence: GaussianSequence, lattice: Tensor) -> GaussianSequence:
    """Those Gaussians that reach the box of a lattice (3, *part), whose coordinates grow along their axes."""
    import torch

    from r2n2.transform import precision_matrix

    flat = lattice.flatten(1)
    low, high = flat[:, 0], flat[:, -1]
    spread = torch.linalg.inv(precision_matrix(sequence.sigmas, sequence.orientation)).diagonal(dim1=1, dim2=2).sqrt()
    away = torch.maximum(low - sequence.centres, sequence.centres - high).clamp_min(0)
    return sequence.select((away <= _REACH * spread).all(dim=1))


def _ends(part: Part) -> tuple[int, ...]:
    return tuple(end for along in part for end in (along.start, along.stop))


def _shape(part: Part) -> tuple[int, ...]:
    return tuple(along.stop - along.start for along in part)
