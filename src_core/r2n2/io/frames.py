"""A folder or pattern of files that hold a frame or volume each (TIFF, MetaImage, NIfTI, NRRD, npy), in the order of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid
from r2n2.io.assemble import FileContent, assemble
from r2n2.io.checks import check_memory, check_same_shape
from r2n2.io.pictures.stack import natural_order
from r2n2.io.placement import Placement
from r2n2.io.readers import ReadOptions, has_own_axes, read_content
from r2n2.io.stored_pixels import StackedArrays
from r2n2.series import ImageSeries

__all__ = ["read_frame_files"]

_COLOURS = (3, 4)
_SAME_DIRECTION = 1e-3


@dataclass(frozen=True, eq=False)
class _FrameFile:
    """The frame of a file, read when it is asked for: (C, (Z,) Y, X)."""

    path: Path
    kind: str
    options: ReadOptions
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: int

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        series = _still(self.path, self.kind, self.options)
        check_same_shape(self.path, [self.shape, (series.channels, *series.grid.shape)])
        return np.asarray(series.frame(0)[: self.channels], dtype=dtype)


@dataclass(frozen=True)
class _Still:
    """What is known of the frame of a file, without its pixels."""

    channels: int
    grid: Grid
    patient_grid: Grid | None
    dtype: np.dtype[Any]
    spacing_known: bool
    grey: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, *self.grid.shape


def read_frame_files(path: Path, kind: str, files: Sequence[Path], options: ReadOptions) -> FileContent:
    """Frames, or volumes, from files of one format, read one at a time; ``path`` is the folder or pattern that gave them.

    Raises
    ------
    ReadError
        If one is damaged or holds several frames, or their sizes, pixel types or places differ.
    """
    ordered = sorted(files, key=natural_order)
    first = read_content(kind, ordered[0], options)
    if len(ordered) == 1:
        return first
    if {Path(name).name for name in first.source.get("files", ())} >= {file.name for file in ordered}:
        return replace(first, path=path)  # one series over several files, as its own header says
    stills = [_described(_still(file, kind, options)) for file in ordered]
    _check_alike(path, ordered, stills)
    shown = stills[0]
    check_memory(path, int(np.prod(shown.shape)) * shown.dtype.itemsize, options.max_bytes)
    grey = shown.channels in _COLOURS and all(item.grey for item in stills)
    channels = 1 if grey else shown.channels
    parts = tuple(_FrameFile(file, kind, options, shown.shape, shown.dtype, channels) for file in ordered)
    what = "volumes, one a file," if shown.grid.ndim == 3 else "frames"
    notes = [f"{what} in the natural order of the file names", *first.notes]
    if grey:
        notes.append("the colour channels are equal: one is kept as grey")
    array = StackedArrays(parts, (len(parts), channels, *shown.grid.shape), 1, shown.dtype)
    placement, plane = _place(shown)
    spacing = shown.grid.spacing if shown.spacing_known else None
    letters = "TC" + "ZYX"[-shown.grid.ndim :]
    return FileContent(path, first.format, array, letters, spacing, placement, plane, notes=tuple(notes), source=first.source)


def _still(path: Path, kind: str, options: ReadOptions) -> ImageSeries:
    """The single frame, or volume, of a file."""
    axes = None if has_own_axes(kind) or not options.volumes else options.axes
    found = assemble(read_content(kind, path, options), axes=axes, volumes=options.volumes)
    if len(found) != 1 or len(found[0]) != 1:
        held = f"{len(found)} slices" if len(found) > 1 else f"{len(found[0])} frames"
        more = "; --volumes reads one volume a file" if len(found) > 1 else ""
        raise ReadError(
            f"{path}: holds {held}, and a folder is read as one frame a file; choose one of its files, or a pattern of those that "
            f"hold one frame each{more}"
        )
    return found[0]


def _described(series: ImageSeries) -> _Still:
    grey = series.channels in _COLOURS and _is_grey(series.frame(0))
    return _Still(series.channels, series.grid, series.patient_grid, series.dtype, series.spacing_known, grey)


def _check_alike(path: Path, files: Sequence[Path], stills: Sequence[_Still]) -> None:
    check_same_shape(path, [item.shape for item in stills])
    shown = stills[0]
    for file, item in zip(files, stills, strict=True):
        if item.dtype != shown.dtype:
            raise ReadError(f"{path}: {file.name} holds {item.dtype} and {files[0].name} {shown.dtype}; convert them to one type")
        if item.spacing_known != shown.spacing_known or not np.allclose(item.grid.spacing, shown.grid.spacing, rtol=1e-4):
            raise ReadError(
                f"{path}: {file.name} has pixels of {item.grid.spacing} mm and {files[0].name} of {shown.grid.spacing} mm; "
                "choose the files of one series with a pattern"
            )
        one, other = item.patient_grid or item.grid, shown.patient_grid or shown.grid
        here, there = one.origin, other.origin
        if len(here) != len(there) or not np.allclose(here, there, atol=1e-2):
            raise ReadError(
                f"{path}: {file.name} lies at {here} mm and {files[0].name} at {there} mm, so they are no frames of one place; "
                "choose the files of one place with a pattern"
            )
        if not np.allclose(one.direction, other.direction, atol=_SAME_DIRECTION):
            raise ReadError(
                f"{path}: the axes of {file.name} run another way than those of {files[0].name}, so they are no "
                "frames of one place; resample them to one lattice"
            )


def _is_grey(frame: NDArray[Any]) -> bool:
    return bool((frame[:3] == frame[:1]).all())


def _place(series: _Still) -> tuple[Placement | None, Any]:
    grid = series.patient_grid or series.grid
    if grid.ndim == 3:
        z, y, x = grid.spacing
        return Placement((z, y, x), (grid.origin[0], grid.origin[1], grid.origin[2]), grid.direction), None
    return None, (series.grid.origin, series.grid.direction)
