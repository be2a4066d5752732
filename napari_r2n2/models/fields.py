"""Images that follow from the transforms of a run: warped frame, displacement, Jacobian, residual, after any number of steps."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.models.volume_fields import VolumeFields

if TYPE_CHECKING:
    from napari_r2n2.models.registration import FrameKey, Registration
    from r2n2.transform import DisplacementField

__all__ = ["COLOUR", "FrameFields"]

COLOUR = (3, 4)
"""Numbers of channels that are a colour: the last axis of an image."""

_KEPT_IMAGES = 64
# Floats of all partial sums of a frame: 64 MiB a vector component.
_MOST_SUMMED = 16 * 2**20


class FrameFields:
    """Computes what is looked at, and keeps the last images so that going back and forth costs nothing.

    ``upto`` counts steps: 0 is the frame as it came. Frames that are not ready are shown undeformed.
    """

    def __init__(self, registration: Registration) -> None:
        self._registration = registration
        self._volumes = VolumeFields(registration)
        self._kept: OrderedDict[tuple[str, FrameKey, int, int], NDArray[Any]] = OrderedDict()
        # All partial sums of the frame that was looked at last: stepping through it then costs no exponential.
        self._sums: tuple[tuple[FrameKey, int], Any] | None = None

    @property
    def registration(self) -> Registration:
        """The run whose images these are."""
        return self._registration

    @property
    def volumes(self) -> VolumeFields:
        """The same of a run of volumes, of which only what is looked at is computed."""
        return self._volumes

    def displacement(self, key: FrameKey, upto: int) -> DisplacementField:
        """The displacement of the first ``upto`` steps, NORMALISED."""
        from r2n2.geometry import Space
        from r2n2.transform import DisplacementField, GaussianSequence

        transform, grid = self._registration.transform(key), self._registration.series[key.slice_index].grid
        sequence = self._registration.sequence(key)
        if transform is None or upto <= 0:
            return DisplacementField.identity(grid)
        if sequence is None or upto >= len(sequence):
            return transform.displacement_field().to_space(Space.NORMALISED)
        assert isinstance(transform, GaussianSequence)
        kept = int(self._registration.enabled(key)[:upto].sum())
        if math.prod(grid.shape) * len(sequence) > _MOST_SUMMED:
            return transform.displacement_field(kept)
        state = (key, self._registration.revision(key))
        if self._sums is None or self._sums[0] != state:
            self._sums = (state, transform.partial_sums())
        return DisplacementField(self._sums[1][kept], grid, Space.NORMALISED)

    def warped(self, key: FrameKey, upto: int) -> NDArray[Any]:
        """The frame aligned by the first ``upto`` steps, in the dtype of the series: (y, x), (y, x, colour) or (channel, y, x)."""

        def compute() -> NDArray[Any]:
            frame = self._registration.series[key.slice_index].frame(key.frame)
            if upto > 0 and self._moved(key):
                from r2n2.registration import warp_pixels

                frame = warp_pixels(frame, self.displacement(key, upto))
            if frame.shape[0] in COLOUR:
                return np.moveaxis(frame, 0, -1)
            return frame[0] if frame.shape[0] == 1 else frame

        return self._keep("warped", key, upto, compute)

    def fixed(self, key: FrameKey) -> NDArray[Any]:
        """The reference of a frame's slice position, the frame itself while it is unknown; axes as ``warped``."""
        reference = self._registration.references.get(key.slice_index, key.frame)
        return self.warped(key._replace(frame=reference), 0)

    def magnitude(self, key: FrameKey, upto: int) -> NDArray[np.float32]:
        """Length of the displacement in mm, (y, x)."""
        return self._keep("magnitude", key, upto, lambda: self.displacement(key, upto).magnitude_mm().numpy())

    def jacobian(self, key: FrameKey, upto: int) -> NDArray[np.float32]:
        """Jacobian determinant of x + f(x) between the pixels, (y - 1, x - 1), half a pixel down and right of the first pixel.

        Above 1 where the reference is stretched to reach the frame; the least of a cell where the cell folds, else its mean.
        """

        def compute() -> NDArray[np.float32]:
            from r2n2.transform import jacobian_determinant

            field = self.displacement(key, upto)
            found = jacobian_determinant(field.vectors[None], field.grid)[0].numpy()
            least = found.min(0)
            return np.where(least <= 0, least, found.mean(0))

        return self._keep("jacobian", key, upto, compute)

    def residual(self, key: FrameKey, upto: int) -> NDArray[np.float32]:
        """Warped frame minus reference, (y, x); channels are averaged; 0 while the reference is unknown."""

        def compute() -> NDArray[np.float32]:
            reference = self._registration.references.get(key.slice_index)
            if reference is None:
                return np.zeros(self._registration.series[key.slice_index].grid.shape, np.float32)
            warped, fixed = self.warped(key, upto), self.warped(key._replace(frame=reference), 0)
            difference = warped.astype(np.float32) - fixed.astype(np.float32)
            return (
                difference
                if difference.ndim == 2
                else difference.mean(-1 if self._registration.series[key.slice_index].channels in COLOUR else 0)
            )

        return self._keep("residual", key, upto, compute)

    def uncertainty(self, key: FrameKey, upto: int) -> NDArray[np.float32]:
        """Radius in mm of 90 % probability, (y, x), of the whole sequence whatever ``upto`` is.

        NaN where it is not known, as of frames whose Gaussians a person switched off.
        """

        def compute() -> NDArray[np.float32]:
            result, grid = self._registration.results.get(key), self._registration.series[key.slice_index].grid
            if result is None or result.uncertainty is None or key in self._registration.switched_off:
                return np.full(grid.shape, np.nan, np.float32)
            return result.uncertainty.on(grid).numpy()

        return self._keep("uncertainty", key, 0, compute)

    def checkerboard(self, key: FrameKey, upto: int, squares: int) -> NDArray[Any]:
        """Reference and warped frame in turn on square fields, ``squares`` along the longer side; axes as ``warped``."""
        reference = self._registration.references.get(key.slice_index)
        warped = self.warped(key, upto)
        if reference is None:
            return warped
        fixed = self.warped(key._replace(frame=reference), 0)
        grid = self._registration.series[key.slice_index].grid
        side_mm = max(n * step for n, step in zip(grid.shape, grid.spacing, strict=True)) / squares
        y, x = (np.floor(np.arange(n) * step / side_mm).astype(int) for n, step in zip(grid.shape, grid.spacing, strict=True))
        mine = ((y[:, None] + x[None]) % 2).astype(bool)
        return np.where(mine[..., None] if self._registration.series[key.slice_index].channels in COLOUR else mine, warped, fixed)

    def _moved(self, key: FrameKey) -> bool:
        sequence = self._registration.sequence(key)
        return key in self._registration.results and (sequence is None or bool(self._registration.enabled(key).any()))

    def _keep(self, what: str, key: FrameKey, upto: int, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        name = (what, key, upto, self._registration.revision(key))
        if name in self._kept:
            self._kept.move_to_end(name)
        else:
            self._kept[name] = compute()
            if len(self._kept) > _KEPT_IMAGES:
                self._kept.popitem(last=False)
        return self._kept[name]
