"""From what a file holds, an array whose axes are named, to image series: one for each slice position, frames still lazy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid
from r2n2.io.axes import axes_question, check_axes
from r2n2.io.checks import check_dtype, check_spacing, read_errors
from r2n2.io.placement import Placement, plane_grid, slice_grids
from r2n2.quantities import spacing_text
from r2n2.series import ImageSeries

__all__ = ["FileContent", "LazyFrames", "assemble"]

Convert = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class FileContent:
    """What a reader found in a file, before it is split into series.

    Parameters
    ----------
    array
        Anything with ``shape``, ``dtype`` and indexing by a tuple of integers and slices.
    axes
        One letter for each axis of ``array``, slow to fast, of T, C or S, Z, Y, X; empty where the file does not say.
    spacing
        (y, x) or (z, y, x) in mm, or None where unknown.
    placement
        Position in the patient, where the file holds one.
    plane
        Origin (y, x) in mm and direction of a 2D image, where the file holds these.
    """

    path: Path
    format: str
    array: Any
    axes: str
    spacing: tuple[float, ...] | None = None
    placement: Placement | None = None
    plane: tuple[tuple[float, ...], tuple[tuple[float, ...], ...]] | None = None
    times_s: tuple[float, ...] | None = None
    modality: str = ""
    notes: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    convert: Convert | None = None
    dtype: np.dtype[Any] | None = None
    """Of the frames after ``convert``; None where nothing is converted."""


@dataclass(frozen=True, eq=False)
class LazyFrames:
    """Frames (T, C, Y, X) of one slice position of an array whose axes lie in any order; a frame is read when indexed."""

    array: Any
    axes: str
    z: int
    convert: Convert | None = None
    converted_dtype: np.dtype[Any] | None = None
    path: Path = Path()
    """What to call the file in messages."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, Y, X)."""
        size = dict(zip(self.axes, self.array.shape, strict=True))
        channels = size.get("C", size.get("S", 1))
        return int(size.get("T", 1)), int(channels), int(size["Y"]), int(size["X"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixel type, in native byte order."""
        return np.dtype(self.converted_dtype or self.array.dtype).newbyteorder("=")

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Frame ``index`` (C, Y, X)."""
        where = tuple({"T": index, "Z": self.z}.get(axis, slice(None)) for axis in self.axes)
        with read_errors(self.path, f"a frame, number {index},"):
            frame = np.asarray(self.array[where])
        left = self.axes.replace("T", "").replace("Z", "").replace("S", "C")
        if "C" not in left:
            frame, left = frame[None], "C" + left
        frame = frame.transpose([left.index(axis) for axis in "CYX"])
        if self.convert is not None:
            frame = self.convert(frame)
        return np.ascontiguousarray(frame, dtype=self.dtype)


def assemble(
    content: FileContent,
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    slice_index: int | None = None,
) -> tuple[ImageSeries, ...]:
    """One image series for each slice position of ``content``, or the one asked for.

    Parameters
    ----------
    axes
        The caller's names of the array's axes, which win over the file's.
    spacing
        The caller's (y, x) or (z, y, x) in mm, which wins over the file's.

    Raises
    ------
    ArgumentError
        If ``axes``, ``spacing`` or ``slice_index`` is wrong.
    ReadError
        If the axes are not known or an axis is empty.
    """
    shape = tuple(int(n) for n in content.array.shape)
    check_dtype(content.path, content.array.dtype)
    if not axes and not content.axes:
        raise axes_question(content.path, shape)
    letters = check_axes(content.path, axes or content.axes, shape, given=bool(axes))
    if min(shape) == 0:
        raise ReadError(f"{content.path}: holds no frame or no pixel, its array has shape {shape}; check how it was saved")
    notes = list(content.notes)
    if axes and content.axes and letters != content.axes:
        notes.append(f"the axes {letters} were given by the caller; the file says {content.axes}")
    if spacing is not None:
        spacing = check_spacing(spacing, where="spacing")
        if content.spacing is not None and tuple(content.spacing[-2:]) != tuple(spacing[-2:]):
            given, stored = spacing_text(spacing), spacing_text(content.spacing)
            notes.append(f"the spacing {given} was given by the caller; the file says {stored}")
    elif content.spacing is None:
        notes.append("no spacing in the file: a pixel is counted as 1 mm; pass --spacing for results in mm")
    size = dict(zip(letters, shape, strict=True))
    count = size.get("Z", 1)
    if slice_index is not None and not 0 <= slice_index < count:
        raise ArgumentError(f"{content.path}: slice {slice_index} does not exist; the file holds slices 0 to {count - 1}")
    if count > 1 and size.get("T", 1) == 1 and not axes:
        frames_of = letters.replace("T", "").replace("Z", "T")
        notes.append(f"read as {count} slices of one frame each; pass --axes {frames_of} if they are frames")
    wanted = range(count) if slice_index is None else [slice_index]
    return tuple(_one_slice(content, letters, k, count, spacing, tuple(notes)) for k in wanted)


def _one_slice(
    content: FileContent, letters: str, index: int, count: int, spacing: tuple[float, ...] | None, notes: tuple[str, ...]
) -> ImageSeries:
    frames = LazyFrames(content.array, letters, index, content.convert, content.dtype, content.path)
    grid, patient = _grids(content, frames.shape[2:], index)
    if spacing is not None:
        grid, patient = plane_grid(grid, spacing), patient and plane_grid(patient, spacing)
    name = content.path.name or content.format
    source = {"format": content.format, "path": str(content.path), "axes": letters, **content.source}
    if count > 1:
        name, source["slice"] = f"{name} slice {index}", index
    times = content.times_s if content.times_s is not None and len(content.times_s) == frames.shape[0] else None
    return ImageSeries(
        frames,
        grid,
        times_s=times,
        name=name,
        modality=content.modality,
        patient_grid=patient,
        spacing_known=content.spacing is not None or spacing is not None,
        notes=notes,
        source=source,
    )


def _grids(content: FileContent, shape: tuple[int, int], index: int) -> tuple[Grid, Grid | None]:
    if content.placement is not None:
        return slice_grids(content.placement, shape, index)
    pixel = tuple(content.spacing[-2:]) if content.spacing is not None else (1.0, 1.0)
    if content.plane is not None:
        return Grid(shape, pixel, *content.plane), None
    return Grid(shape, pixel), None
