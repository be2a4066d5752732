"""One way in for every format: ``read_series`` gives the image series of a path, ``describe`` what it holds."""

from __future__ import annotations

import glob
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from r2n2.errors import ArgumentError, R2N2Error, ReadError, ResourceError
from r2n2.io.assemble import FileContent, assemble
from r2n2.io.checks import DEFAULT_MAX_BYTES, existing
from r2n2.io.detect import detect_format, files_by_kind, folder_entries
from r2n2.io.readers import ReadOptions, has_own_axes, read_content
from r2n2.series import ImageSeries

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


def read_series(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    series: str | None = None,
    slice_index: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    allow_missing: bool = False,
    drop_damaged: bool = False,
    contrast_series: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[ImageSeries, ...]:
    """Read the image series of a file, a folder or a pattern such as ``frames/*.png``: one for each slice position.

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
            max_bytes=max_bytes,
            drop_damaged=drop_damaged,
            contrast_series=contrast_series,
            progress=progress,
        )
    content = _content(found, ReadOptions(axes, series, max_bytes, allow_missing))
    return assemble(content, axes=None if has_own_axes(content.format) else axes, spacing=spacing, slice_index=slice_index)


def describe(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    series: str | None = None,
    contrast_series: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Description, ...]:
    """What a path holds; damage and questions are listed as problems instead of raised.

    Raises
    ------
    ReadError
        Only if there is nothing at ``path`` or its format is unknown.
    """
    found = _found(path)
    try:
        if found.kind == "dicom":
            return _describe_dicom(found.path, spacing, series, contrast_series, progress)
        items = read_series(path, axes=axes, spacing=spacing, series=series)
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
    progress: Callable[[int], None] | None,
) -> tuple[Description, ...]:
    from r2n2.io.dicom.listing import list_dicom

    listing = list_dicom(path, contrast_series=contrast_series, progress=progress)
    if not listing.groups:
        return (Description(str(path), "dicom", path.name, notes=listing.notes, problems=listing.problems),)
    groups = [
        g
        for g in listing.groups
        if series is None or series == g.key or g.series_uid.startswith(series) or g.series_uid.endswith(series)
    ]
    if not groups:
        keys = ", ".join(group.key for group in listing.groups[:30])
        raise ArgumentError(f"series: {series!r} is none of the series here; choose one of {keys}")
    return tuple(
        Description(
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
            (*group.notes, *(listing.notes if number == 0 else ())),
            (*group.problems, *(listing.problems if number == 0 else ())),
        )
        for number, group in enumerate(groups)
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
