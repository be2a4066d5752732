"""What is registered: an image series on a grid and the landmarks placed in it, both immutable.

Frames stay in the file's own type and may be lazy (zarr, dask); one frame is an array of shape (C, *grid.shape).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from r2n2.geometry import Grid, GridMismatchError, Space
from r2n2.quantities import LengthUnit, length_unit

__all__ = ["Frames", "ImageSeries", "LandmarkSet"]


class Frames(Protocol):
    """Array-like of shape (T, C, *spatial) whose ``frames[t]`` gives frame t; numpy, zarr and dask arrays are some."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, C, *spatial)."""
        ...

    @property
    def dtype(self) -> Any:
        """The pixel type of the file."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Frame ``index``, convertible to an array of shape (C, *spatial)."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSeries:
    """A 2D+t (or 3D+t) image series whose frames all lie on one grid.

    Parameters
    ----------
    frames
        (T, C, *grid.shape), in the dtype of the file.
    grid
        Lattice of every frame. Of a volume it lies in the patient (LPS mm) where the file says where. Where a slice lies
        parallel to the patient's axial plane its origin and direction are the patient's; for any other slice they are
        in-plane: origin 0 at the first pixel, axes along rows and columns.
    times_s
        Acquisition time of every frame in s, or None where the file holds none.
    name, modality
        What to call the series; "MR", "CT", "US" or "" where unknown.
    patient_grid
        3D grid of one pixel along z that places a 2D slice in the patient (LPS mm, array order z, y, x); None of volumes and
        where it is not known.
    spacing_known
        False where the file holds no pixel size, so that a grid spacing of 1 means a pixel, not a mm.
    notes
        What a reader decided or noticed and a person should know, one sentence each.
    source
        How the series was read, ready for JSON: at least ``format`` and ``path``; no patient data.

    Raises
    ------
    ValueError
        If there is no frame, or the shape of ``frames`` or ``times_s`` does not fit.
    """

    frames: Frames
    grid: Grid
    times_s: tuple[float, ...] | None = None
    name: str = ""
    modality: str = ""
    patient_grid: Grid | None = None
    spacing_known: bool = True
    notes: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if len(shape) != self.grid.ndim + 2 or shape[2:] != self.grid.shape:
            raise ValueError(
                f"ImageSeries: frames must have shape (T, C, {', '.join(map(str, self.grid.shape))}) for its grid, got {shape}"
            )
        if shape[0] == 0 or shape[1] == 0:
            raise ValueError(f"ImageSeries: no frame or no channel in frames of shape {shape}; check how the series was read")
        if self.times_s is not None and len(self.times_s) != shape[0]:
            raise ValueError(f"ImageSeries: {len(self.times_s)} times_s were given for {shape[0]} frames")

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    @property
    def channels(self) -> int:
        """Number of channels: 1, or 3 and 4 for colour."""
        return int(self.frames.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixel type of the file, which the registered series keeps."""
        return np.dtype(self.frames.dtype)

    @property
    def length_unit(self) -> LengthUnit:
        """What its lengths are shown in: um where pixels are that small."""
        return length_unit(self.grid.spacing)

    def frame(self, index: int) -> NDArray[Any]:
        """Frame ``index`` (C, *grid.shape) in the file's dtype and native byte order, read now where frames are lazy.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} does not exist: {self.name or 'the series'} has frames 0 to {len(self) - 1}")
        frame = np.asarray(self.frames[index])
        return np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("="))

    def with_note(self, note: str) -> ImageSeries:
        """The same series with one more note."""
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True, eq=False)
class LandmarkSet:
    """Numbered points placed in frames of a series.

    Parameters
    ----------
    ids
        Name of every point; the points that share an id mark the same place of the body in several frames.
    frames
        (N,) frame index of every point.
    points
        (N, ndim) positions in array order.
    space
        ``Space.INDEX`` (pixel centres, 0-based) or ``Space.WORLD`` (mm).
    notes
        What a reader decided or noticed and a person should know, one sentence each.

    Raises
    ------
    ValueError
        If lengths differ, a number is not finite, a frame is negative, or an id occurs twice in a frame.
    """

    ids: tuple[str, ...]
    frames: NDArray[np.int64]
    points: NDArray[np.float64]
    space: Space
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(str(i) for i in self.ids))
        object.__setattr__(self, "frames", np.asarray(self.frames, dtype=np.int64))
        object.__setattr__(self, "points", np.asarray(self.points, dtype=np.float64))
        count = len(self.ids)
        if self.frames.shape != (count,) or self.points.ndim != 2 or self.points.shape[0] != count:
            raise ValueError(
                f"LandmarkSet: {count} ids need frames of shape ({count},) and points of shape ({count}, ndim), "
                f"got {self.frames.shape} and {self.points.shape}"
            )
        if self.space is Space.NORMALISED:
            raise ValueError("LandmarkSet: points are kept in INDEX or WORLD space; convert NORMALISED points first")
        if not np.isfinite(self.points).all() or (self.frames < 0).any():
            raise ValueError("LandmarkSet: every coordinate must be finite and every frame at least 0; correct the landmark file")
        seen: set[tuple[str, int]] = set()
        for key in zip(self.ids, self.frames.tolist(), strict=True):
            if key in seen:
                raise ValueError(f"LandmarkSet: id {key[0]!r} occurs twice in frame {key[1]}; every id may occur once a frame")
            seen.add(key)

    def __len__(self) -> int:
        return len(self.ids)

    def in_frame(self, frame: int) -> LandmarkSet:
        """The landmarks of one frame."""
        keep = np.flatnonzero(self.frames == frame)
        return self._take(keep)

    def select_frames(self, frames: Collection[int]) -> LandmarkSet:
        """The landmarks of several frames."""
        return self._take(np.flatnonzero(np.isin(self.frames, list(frames))))

    def where(self, kept: NDArray[np.bool_]) -> LandmarkSet:
        """Those for which ``kept`` (N,) is true."""
        return self._take(np.flatnonzero(kept))

    def select(self, ids: Sequence[str]) -> LandmarkSet:
        """The landmarks with these ids, in the order of ``ids``; for the landmarks of a single frame."""
        position = {name: k for k, name in enumerate(self.ids)}
        return self._take(np.array([position[name] for name in ids], dtype=np.int64))

    def to_space(self, space: Space, grid: Grid) -> LandmarkSet:
        """The same places in another space.

        Raises
        ------
        GridMismatchError
            If ``grid`` has another number of axes than the points.
        """
        if grid.ndim != self.points.shape[1]:
            raise GridMismatchError(
                f"LandmarkSet.to_space: points have {self.points.shape[1]} coordinates, the grid has {grid.ndim} axes"
            )
        import torch

        converted = grid.convert_points(torch.from_numpy(np.ascontiguousarray(self.points)), self.space, space)
        return replace(self, points=converted.numpy(), space=space)

    def _take(self, keep: NDArray[np.int64]) -> LandmarkSet:
        return replace(self, ids=tuple(self.ids[k] for k in keep), frames=self.frames[keep], points=self.points[keep])
