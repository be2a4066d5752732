"""From what a file holds, an array whose axes are named, to image series of slice positions or of volumes, frames still lazy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid
from r2n2.io.axes import axes_question, check_axes
from r2n2.io.checks import check_dtype, check_spacing, read_errors
from r2n2.io.placement import Placement, plane_grid, slice_grids
from r2n2.io.volume_choice import choose_reading
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
        (y, x) or (z, y, x) in mm, or None where unknown; (y, x) of slices whose distance is not known.
    placement
        Position in the patient, where the file holds one.
    plane
        Origin (y, x) in mm and direction of a 2D image, where the file holds these.
    corner
        Origin (z, y, x) in mm of a volume whose axes run along those of the world, which is not the patient's.
    guessed
        The axes are what is usual for such files; the file does not name them.
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
    corner: tuple[float, ...] | None = None
    guessed: bool = False


@dataclass(frozen=True, eq=False)
class LazyFrames:
    """Frames (T, C, (Z,) Y, X) of an array whose axes lie in any order; a frame is read when indexed."""

    array: Any
    axes: str
    z: int | None
    """Slice position, None for whole volumes."""
    convert: Convert | None = None
    converted_dtype: np.dtype[Any] | None = None
    path: Path = Path()
    """What to call the file in messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, C, (Z,) Y, X)."""
        size = dict(zip(self.axes, self.array.shape, strict=True))
        channels = size.get("C", size.get("S", 1))
        return int(size.get("T", 1)), int(channels), *(int(size[axis]) for axis in self._spatial)

    @property
    def _spatial(self) -> str:
        return "ZYX" if self.z is None else "YX"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixel type, in native byte order."""
        return np.dtype(self.converted_dtype or self.array.dtype).newbyteorder("=")

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Frame ``index`` (C, (Z,) Y, X)."""
        whole = slice(None)
        where = tuple({"T": index, "Z": whole if self.z is None else self.z}.get(axis, whole) for axis in self.axes)
        with read_errors(self.path, f"a frame, number {index},"):
            frame = np.asarray(self.array[where])
        left = self.axes.replace("T", "").replace("Z", "Z" if self.z is None else "").replace("S", "C")
        if "C" not in left:
            frame, left = frame[None], "C" + left
        frame = frame.transpose([left.index(axis) for axis in f"C{self._spatial}"])
        if self.convert is not None:
            frame = self.convert(frame)
        return np.ascontiguousarray(frame, dtype=self.dtype)


def assemble(
    content: FileContent,
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    slice_index: int | None = None,
    volumes: bool | None = None,
) -> tuple[ImageSeries, ...]:
    """One image series for each slice position of ``content``, or the one asked for, or one of volumes.

    Parameters
    ----------
    axes
        The caller's names of the array's axes, which win over the file's.
    spacing
        The caller's (y, x) or (z, y, x) in mm, which wins over the file's.
    volumes
        True for volumes, False for slices, None for what ``choose_reading`` takes.

    Raises
    ------
    ArgumentError
        If ``axes``, ``spacing``, ``slice_index`` or ``volumes`` does not fit.
    ReadError
        If the axes are not known, an axis is empty, or a volume's slices have no known distance.
    """
    shape = tuple(int(n) for n in content.array.shape)
    check_dtype(content.path, content.array.dtype)
    notes = list(content.notes)
    if volumes and content.guessed and not axes:
        content, notes = _as_slices(content)
    if not axes and not content.axes:
        raise axes_question(content.path, shape)
    letters = check_axes(content.path, axes or content.axes, shape, given=bool(axes))
    if min(shape) == 0:
        raise ReadError(f"{content.path}: holds no frame or no pixel, its array has shape {shape}; check how it was saved")
    if axes and content.axes and letters != content.axes:
        notes.append(f"the axes {letters} were given by the caller; the file says {content.axes}")
    size = dict(zip(letters, shape, strict=True))
    notes += _spacing_notes(content, spacing)
    spacing = None if spacing is None else check_spacing(spacing, where="spacing")
    if content.times_s is not None and len(content.times_s) != size.get("T", 1):
        told = f"{len(content.times_s)} frame times, the axes {letters} give {size.get('T', 1)} frames"
        notes.append(f"the file holds {told}: times are unknown; is T where the time is?")
    count = size.get("Z", 1)
    if slice_index is not None and not 0 <= slice_index < count:
        raise ArgumentError(f"{content.path}: slice {slice_index} does not exist; the file holds slices 0 to {count - 1}")
    if _is_volume(content, count, spacing, slice_index, volumes, notes):
        if size.get("T", 1) == 1 and not axes:
            notes.append(f"one volume of {count} slices; pass --axes {_frames_of(letters)} if they are frames")
        return (_volume(content, letters, spacing, notes),)
    if count > 1 and size.get("T", 1) == 1 and not axes:
        notes.append(f"read as {count} slices of one frame each; pass --axes {_frames_of(letters)} if they are frames")
    wanted = range(count) if slice_index is None else [slice_index]
    return tuple(_one_slice(content, letters, k, count, spacing, tuple(notes)) for k in wanted)


def _frames_of(letters: str) -> str:
    return letters.replace("T", "").replace("Z", "T")


def _as_slices(content: FileContent) -> tuple[FileContent, list[str]]:
    """A nameless array of three axes, whose frames a caller who asks for volumes means to be slices."""
    letters = content.axes.replace("T", "Z")
    told = [note for note in content.notes if "does not name its axes" not in note]
    told.append(f"the file does not name its axes: {', '.join(letters)} is taken, as --volumes asks; --axes says another")
    return replace(content, axes=letters), told


def _spacing_notes(content: FileContent, spacing: tuple[float, ...] | None) -> list[str]:
    if spacing is None:
        missing = "no spacing in the file: a pixel is counted as 1 mm; pass --spacing for results in mm"
        return [missing] if content.spacing is None else []
    if content.spacing is None or tuple(content.spacing[-len(spacing) :]) == tuple(spacing):
        return []
    given, stored = spacing_text(spacing), spacing_text(content.spacing)
    return [f"the spacing {given} was given by the caller; the file says {stored}"]


def _is_volume(
    content: FileContent,
    count: int,
    spacing: tuple[float, ...] | None,
    slice_index: int | None,
    volumes: bool | None,
    notes: list[str],
) -> bool:
    """Whether the slices are read as a volume, the reason added to ``notes``."""
    if count == 1:
        if volumes:
            notes.append(
                "read as a 2D series, though --volumes asks for volumes: it has one slice; --axes ZYX says that frames are slices"
            )
        return False
    if slice_index is not None:
        if volumes:
            raise ArgumentError(
                f"{content.path}: --slice {slice_index} picks one slice of a volume; leave out --slice or --volumes"
            )
        return False
    known = spacing if spacing is not None and len(spacing) == 3 else content.spacing
    choice = choose_reading(volumes, count, known)
    notes += [choice.note] if choice.note else []
    return choice.volume


def _volume(content: FileContent, letters: str, spacing: tuple[float, ...] | None, notes: list[str]) -> ImageSeries:
    """One series of volumes."""
    frames = LazyFrames(content.array, letters, None, content.convert, content.dtype, content.path)
    grid = _volume_grid(content, frames.shape[2:], spacing)
    if content.placement is None and content.corner is None:
        notes = [*notes, "the file does not say where the volume lies: its first voxel is put at 0, its axes run along x, y and z"]
    times = content.times_s if content.times_s is not None and len(content.times_s) == frames.shape[0] else None
    return ImageSeries(
        frames,
        grid,
        times_s=times,
        name=content.path.name or content.format,
        modality=content.modality,
        spacing_known=content.spacing is not None or spacing is not None,
        notes=tuple(notes),
        source={"format": content.format, "path": str(content.path), "axes": letters, **content.source},
    )


def _volume_grid(content: FileContent, shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> Grid:
    known = content.spacing
    if spacing is not None:
        known = spacing if len(spacing) == 3 or known is None or len(known) < 3 else (known[0], *spacing)
    if known is not None and len(known) < 3:
        raise ReadError(
            f"{content.path}: the distance of its slices is not known; pass --spacing Z,Y,X in mm for a volume, or --slices"
        )
    if content.placement is not None:
        return Grid(shape, known or content.placement.spacing, content.placement.origin, content.placement.direction)
    return Grid(shape, known or (1.0, 1.0, 1.0), content.corner or ())


def _one_slice(
    content: FileContent, letters: str, index: int, count: int, spacing: tuple[float, ...] | None, notes: tuple[str, ...]
) -> ImageSeries:
    frames = LazyFrames(content.array, letters, index, content.convert, content.dtype, content.path)
    grid, patient = _grids(content, frames.shape[-2:], index)
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


def _grids(content: FileContent, shape: tuple[int, ...], index: int) -> tuple[Grid, Grid | None]:
    if content.placement is not None:
        return slice_grids(content.placement, (shape[0], shape[1]), index)
    pixel = tuple(content.spacing[-2:]) if content.spacing is not None else (1.0, 1.0)
    if content.plane is not None:
        return Grid(shape, pixel, *content.plane), None
    return Grid(shape, pixel), None
