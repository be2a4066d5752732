"""One way in for every format: ``read_series`` gives the image series of a path, ``describe`` what it holds."""

from __future__ import annotations

import glob
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from r2n2.errors import ArgumentError, AxesUnknownError, R2N2Error, ReadError, ResourceError
from r2n2.io.assemble import FileContent, assemble
from r2n2.io.axes import axes_question
from r2n2.io.checks import DEFAULT_MAX_BYTES, existing
from r2n2.io.detect import detect_format, files_by_kind, folder_entries
from r2n2.io.orientation import orientation_text
from r2n2.io.readers import ReadOptions, has_own_axes, read_content
from r2n2.series import ImageSeries

if TYPE_CHECKING:
    from r2n2.io.dicom.listing import DicomVolume

__all__ = ["Description", "describe", "detect_format", "read_series"]

_MOST_MATCHES = 100_000
_MOST_DECODED = 2**31


@dataclass(frozen=True)
class Description:
    """What a path holds, one for each slice position; where it cannot be read, ``problems`` says why."""

    path: str
    format: str
    name: str = ""
    frames: int = 0
    channels: int = 0
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    times_s: tuple[float, ...] | None = None
    """Of every frame, or for DICOM, whose pixels are not read for this, the first and the last."""
    dtype: str = ""
    modality: str = ""
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    orientation: str = ""
    """Of a volume, as of ``orientation_text``; "" for slices."""


def read_series(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    series: str | None = None,
    slice_index: int | None = None,
    volumes: bool | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    allow_missing: bool = False,
    drop_damaged: bool = False,
    contrast_series: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[ImageSeries, ...]:
    """Read the image series of a file, a folder or a pattern such as ``frames/*.png``: one for each slice position, or of volumes.

    Parameters
    ----------
    axes
        Names of the array's axes, slow to fast as in NumPy, where the file does not say or is wrong: letters of T, C, Z, Y, X.
    spacing
        (y, x) or (z, y, x) in mm, in place of the file's.
    series
        Which one is meant where there are several: DICOM series UID or its end, name of an array in .npz, MATLAB or HDF5, of an
        image in Zarr or TIFF.
    slice_index
        Read only this slice position.
    volumes
        True reads slices as volumes (their third axis, where it may be time, as slices), False slice by slice; None as
        ``volume_choice.choose_reading`` decides, with a note.
    max_bytes
        Most bytes to hold in memory; files that are read frame by frame may be larger.
    allow_missing
        Take missing Zarr chunks as their fill value instead of refusing.
    drop_damaged
        Leave out damaged DICOM frames, with a note, instead of refusing.
    contrast_series
        Make one series of DICOM frames that differ in how they were made (inversion time, echo time, b-value, ...) instead of
        setting them apart.
    progress
        Called now and then with the number of files of a DICOM folder that were looked at.

    Raises
    ------
    ReadError
        If the file is damaged, ambiguous or of an unknown format.
    ArgumentError
        If an argument does not fit the file.
    ResourceError
        If it may not be read or needs more than ``max_bytes``.
    MissingExtraError
        If the format needs a package that is not installed.
    """
    found = _found(path)
    if found.kind == "dicom":
        from r2n2.io.dicom.reader import read_dicom

        return read_dicom(
            found.path,
            spacing=spacing,
            series=series,
            slice_index=slice_index,
            volumes=volumes,
            max_bytes=max_bytes,
            drop_damaged=drop_damaged,
            contrast_series=contrast_series,
            progress=progress,
        )
    content, axes = _content_of(found, ReadOptions(axes, series, max_bytes, allow_missing, volumes))
    return assemble(content, axes=axes, spacing=spacing, slice_index=slice_index, volumes=volumes)


def describe(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    series: str | None = None,
    contrast_series: bool = False,
    volumes: bool | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Description, ...]:
    """What a path holds, read as ``read_series`` does; damage and questions are listed as problems instead of raised.

    Raises
    ------
    ReadError
        Only if there is nothing at ``path`` or its format is unknown.
    """
    found = _found(path)
    try:
        if found.kind == "dicom":
            return _describe_dicom(found.path, spacing, series, contrast_series, volumes, progress)
        items = read_series(path, axes=axes, spacing=spacing, series=series, volumes=volumes)
    except (ReadError, ResourceError, ArgumentError) as error:
        return (Description(str(found.path), found.kind, found.path.name, problems=(str(error),)),)
    left = _MOST_DECODED
    problems = []
    for item in items:
        problem, left = _unreadable_frame(item, left)
        problems.append(problem)
    return tuple(
        Description(
            str(found.path),
            str(item.source.get("format", found.kind)),
            item.name,
            len(item),
            item.channels,
            item.grid.shape,
            item.grid.spacing if item.spacing_known else None,
            item.times_s,
            item.dtype.name,
            item.modality,
            item.notes,
            problem,
            orientation_text(item.grid) if item.grid.ndim == 3 else "",
        )
        for item, problem in zip(items, problems, strict=True)
    )


def _unreadable_frame(series: ImageSeries, left: int) -> tuple[tuple[str, ...], int]:
    """Why a frame cannot be decoded, as far as ``left`` bytes go, so that what is listed here can also be registered."""
    size = series.channels * math.prod(series.grid.shape) * series.dtype.itemsize
    for index in range(min(len(series), left // max(size, 1))):
        try:
            series.frame(index)
        except R2N2Error as error:
            return (f"frame {index}: {error}",), left
        left -= size
    return (), left


def _describe_dicom(
    path: Path,
    spacing: tuple[float, ...] | None,
    series: str | None,
    contrast_series: bool,
    volumes: bool | None,
    progress: Callable[[int], None] | None,
) -> tuple[Description, ...]:
    from r2n2.io.dicom.listing import list_dicom

    listing = list_dicom(path, contrast_series=contrast_series, volumes=volumes, progress=progress)
    found: list[tuple[str, Description]] = [(item.series_uid, _volume_description(path, item)) for item in listing.volumes]
    for group in listing.groups:
        shown = Description(
            str(path),
            "dicom",
            group.key,
            group.frames,
            group.channels,
            group.shape,
            group.spacing_mm if spacing is None else tuple(spacing[-2:]),
            group.time_range_s,
            "",
            group.modality,
            group.notes,
            group.problems,
        )
        found.append((group.series_uid, shown))
    if not found:
        return (Description(str(path), "dicom", path.name, notes=listing.notes, problems=listing.problems),)
    kept = [item for uid, item in found if series is None or series == item.name or uid.startswith(series) or uid.endswith(series)]
    if not kept:
        keys = ", ".join(item.name for _, item in found[:30])
        raise ArgumentError(f"series: {series!r} is none of the series here; choose one of {keys}")
    first = replace(kept[0], notes=(*kept[0].notes, *listing.notes), problems=(*kept[0].problems, *listing.problems))
    return (first, *kept[1:])


def _volume_description(path: Path, item: DicomVolume) -> Description:
    return Description(
        str(path),
        "dicom",
        item.key,
        item.frames,
        item.channels,
        item.grid.shape,
        item.grid.spacing if item.spacing_known else None,
        item.time_range_s,
        "",
        item.modality,
        item.notes,
        item.problems,
        orientation_text(item.grid),
    )


@dataclass(frozen=True)
class _Found:
    """A path, its format, and the files that hold one frame each where it is a folder or pattern of such."""

    path: Path
    kind: str
    files: tuple[Path, ...] = ()
    skipped: tuple[Path, ...] = ()


def _found(path: str | os.PathLike[str]) -> _Found:
    text = os.fspath(path)
    if any(sign in text for sign in "*?[") and not os.path.lexists(text):
        return _matching(text)
    place = existing(path)
    kind = detect_format(place)
    if kind not in ("pictures", "frames"):
        return _Found(place, kind)
    if place.is_file():
        return _Found(place, kind, (place,))
    entries = folder_entries(place)
    ((kind, files),) = files_by_kind(entries).items()
    # The pixels of a header lie beside it under another name.
    parts = {file.stem for file in files} if kind in ("mha", "nrrd", "nifti") else set()
    chosen = set(files)  # a folder may hold a hundred thousand
    skipped = tuple(entry for entry in entries if entry not in chosen and entry.stem not in parts)
    return _Found(place, kind, tuple(files), skipped)


def _matching(pattern: str) -> _Found:
    found = [Path(p) for p in itertools.islice(glob.iglob(pattern), _MOST_MATCHES)]
    kinds = files_by_kind(found)
    if len(kinds) > 1:
        listed = ", ".join(f"{len(files)} {files[0].suffix}" for files in kinds.values())
        raise ReadError(f"{pattern}: fits {listed} files; give a pattern that fits one kind")
    if not kinds:
        if len(found) == 1:
            return _found(found[0])
        raise ReadError(
            f"{pattern}: no .png, .jpg, .tif or other file of a single frame fits this pattern ({len(found)} others do); check it"
        )
    ((kind, files),) = kinds.items()
    return _Found(Path(pattern), kind, tuple(files))


def _content_of(found: _Found, options: ReadOptions) -> tuple[FileContent, str | None]:
    """What was found, and the axes that are still to be applied.

    Where volumes are asked for, a third axis that may be time or slices is slices.
    """
    axes = options.axes
    notes: tuple[str, ...] = ()
    try:
        content = _content(found, options)
        if not content.axes and not axes:
            raise axes_question(content.path, content.array.shape)
    except AxesUnknownError as question:
        readings = [letters for letters, _ in question.choices if "Z" in letters]
        if not options.volumes or axes or len(readings) != 1:
            raise
        axes = readings[0]
        notes = (f"the file does not say what its axes are: {', '.join(axes)} is taken, as --volumes asks; --axes says another",)
        content = _content(found, replace(options, axes=axes))
    # Of a folder of volumes the axes are those of each file.
    applied = has_own_axes(content.format) or (options.volumes and found.kind != "pictures" and len(found.files) > 1)
    return replace(content, notes=(*content.notes, *notes)), None if applied else axes


def _content(found: _Found, options: ReadOptions) -> FileContent:
    if not found.files:
        return read_content(found.kind, found.path, options)
    if found.kind == "pictures":
        from r2n2.io.pictures.stack import read_picture_stack

        if options.name is not None:
            raise ArgumentError(f"{found.path}: --series picks a DICOM series, these are pictures; leave it out")
        content = read_picture_stack(found.path, found.files, options.max_bytes)
    else:
        from r2n2.io.frames import read_frame_files

        content = read_frame_files(found.path, found.kind, found.files, options)
    if found.skipped:
        named = ", ".join(file.name for file in found.skipped[:3]) + (", ..." if len(found.skipped) > 3 else "")
        content = replace(
            content, notes=(*content.notes, f"{len(found.skipped)} other entries of the folder were skipped ({named})")
        )
    return content
