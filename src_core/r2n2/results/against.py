"""A series that is registered to an image from elsewhere: that image stands before the frames, and all lie on its lattice.

Every part of the program aligns the frames of a series to one of them. An image from elsewhere becomes one: frame 0, the reference,
with the frames 0, 1, ... of the series behind it as 1, 2, .... Frames of another lattice are resampled to that of the fixed image,
linearly and one at a time; where they show nothing a mask says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates  # type: ignore[import-untyped]

from r2n2.errors import ArgumentError
from r2n2.mask import Mask, Masks
from r2n2.preprocessing import one_channel
from r2n2.quantities import spacing_text
from r2n2.results.placing import place
from r2n2.series import ImageSeries

__all__ = ["Against", "against"]


@dataclass(frozen=True, eq=False)
class Against:
    """What is to be registered.

    Parameters
    ----------
    series
        The fixed image and, behind it, the frames; of one frame or many.
    covered
        Where the frames show anything; None where they do everywhere.
    """

    series: ImageSeries
    covered: Mask | None = None

    def masks(self, given: Masks) -> Masks:
        """Masks that were given, on the lattice of the fixed image, and what the frames do not show left out."""
        if self.covered is None:
            return given
        if given.moving is None:
            return replace(given, moving=self.covered)
        both = given.moving.weights * self.covered.weights
        return replace(given, moving=replace(given.moving, weights=both.astype(np.float32)))


def against(series: ImageSeries, fixed: ImageSeries, name: str) -> Against:
    """The series to register so that its frames align to another image.

    Parameters
    ----------
    series
        At least one frame.
    fixed
        The image, of one frame.
    name
        What to call it in messages.

    Raises
    ------
    ArgumentError
        If it is no single image, shows another slice or lies elsewhere, or its channels differ from those of the frames and
        neither are one.
    """
    if len(fixed) != 1:
        raise ArgumentError(f"{name}: holds {len(fixed)} frames, expected one image; cut one out, or give another file")
    if fixed.grid.ndim != series.grid.ndim:
        raise ArgumentError(f"{name}: is {fixed.grid.ndim}D, the series {series.grid.ndim}D; give an image of the same slice")
    try:
        placed = place(fixed, [series], series.name or "the series", labels=False)
    except ArgumentError as error:
        # Said of an image beside a registered series, which the fixed one is here.
        raise ArgumentError(f"{name}: {str(error).replace('the registered series', 'the fixed image')}") from None
    moving = placed.series
    grey = fixed.channels != moving.channels
    if grey and 1 not in (fixed.channels, moving.channels):
        raise ArgumentError(
            f"{name}: has {fixed.channels} channels, the series {moving.channels}; give both the same, or one of them a single one"
        )
    resampled = placed.to_index is not None
    dtype = np.result_type(fixed.dtype, moving.dtype, *((np.float32,) if resampled or grey else ()))
    notes = [f"frame 0 is {name}; the frames of the series are numbered from 1"]
    if resampled:
        own, others = spacing_text(fixed.grid.spacing), spacing_text(moving.grid.spacing)
        notes.append(f"frames are resampled from pixels of {others} to those of {name}, {own}")
    else:
        notes += placed.notes
    if grey:
        notes.append("colour is shown as grey, as only one of the two has it")
    if series.times_s is not None:
        notes.append(f"the times of the frames are left out, as {name} has none among them")
    frames = _Behind(fixed, moving, placed.to_index, np.dtype(dtype), grey)
    # No format of the input holds both: NIfTI holds any.
    source = {**series.source, "format": "nifti", "to": str(fixed.source.get("path", name))}
    whole = replace(fixed, frames=frames, times_s=None, name=series.name, source=source, notes=(*series.notes, *notes))
    return Against(whole, _coverage(frames, name))


def _coverage(frames: _Behind, name: str) -> Mask | None:
    """(1, *shape) of the pixels of the fixed image that lie on the frames; all of frame 0 counts by the other mask."""
    if frames.to_index is None:
        return None
    inside = frames.inside()
    if not inside.any():
        raise ArgumentError(f"{name}: no pixel of it lies on the frames; check that both show the same place")
    return None if inside.all() else Mask(inside[None], "what the frames show")


@dataclass(frozen=True, eq=False)
class _Behind:
    """Frames of one image and of a series behind it, computed when asked for."""

    fixed: ImageSeries
    moving: ImageSeries
    to_index: NDArray[np.float64] | None
    """(ndim, ndim + 1) from INDEX of the frames to that of the fixed image."""
    dtype: np.dtype[Any]
    grey: bool

    @property
    def shape(self) -> tuple[int, ...]:
        channels = 1 if self.grey else self.fixed.channels
        return (1 + len(self.moving), channels, *self.fixed.grid.shape)

    def __getitem__(self, index: int) -> NDArray[Any]:
        frame = self.fixed.frame(0) if index == 0 else self.moving.frame(index - 1)
        if self.grey:
            frame = one_channel(frame)
        if index and self.to_index is not None:
            places, inside = self._places(), self.inside()
            frame = np.stack([map_coordinates(one.astype(np.float64), places, order=1, mode="nearest") for one in frame])
            frame[:, ~inside] = 0
        return frame.astype(self.dtype)

    def inside(self) -> NDArray[np.bool_]:
        """(*shape) whether a pixel of the fixed image lies on the frames."""
        last = np.array(self.moving.grid.shape).reshape(-1, *[1] * self.fixed.grid.ndim) - 1
        places = self._places()
        return np.asarray(((places >= -1e-6) & (places <= last + 1e-6)).all(axis=0))

    def _places(self) -> NDArray[np.float64]:
        """(ndim, *shape) INDEX in the frames of every pixel of the fixed image."""
        assert self.to_index is not None
        matrix, offset = self.to_index[:, :-1], self.to_index[:, -1]
        pixels = np.stack(np.meshgrid(*(np.arange(n) for n in self.fixed.grid.shape), indexing="ij")).astype(np.float64)
        back = np.linalg.inv(matrix)
        return np.tensordot(back, pixels - offset.reshape(-1, *[1] * len(offset)), axes=1)
