"""Which reader a path belongs to: by its first bytes and its suffix, never by the suffix alone."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.io.assemble import FileContent, assemble
from r2n2.io.checks import DEFAULT_MAX_BYTES, existing, read_errors
from r2n2.io.dicom.file import starts_like_dicom
from r2n2.io.pictures import PICTURE_SUFFIXES
from r2n2.series import ImageSeries

__all__ = ["KNOWN_FORMATS", "Description", "describe", "detect_format", "read_series"]

KNOWN_FORMATS = (
    "DICOM file or folder, .nii, .nii.gz, .mha, .mhd, .tif, .tiff, .zarr, .npy, .npz, .gif, and a folder or pattern of .png or .jpg"
)
_MOST_ENTRIES = 100_000
_MOST_PROBED = 20  # a DICOM folder may hold a few preview pictures
_OWN_AXES = frozenset({"mha", "nifti"})  # these readers have already applied the caller's axes


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
        DICOM series UID, or its end, where a folder holds several.
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
    files, place = _files_of(path)
    kind = detect_format(place) if files is None else "pictures"
    if kind == "dicom":
        from r2n2.io.dicom.reader import read_dicom

        return read_dicom(
            place,
            spacing=spacing,
            series=series,
            slice_index=slice_index,
            max_bytes=max_bytes,
            drop_damaged=drop_damaged,
            contrast_series=contrast_series,
            progress=progress,
        )
    if series is not None:
        raise ArgumentError(f"{place}: --series picks a DICOM series, this is {kind}; leave it out or use --slice")
    content = _content(kind, place, files, axes, max_bytes, allow_missing)
    return assemble(content, axes=None if content.format in _OWN_AXES else axes, spacing=spacing, slice_index=slice_index)


def describe(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    contrast_series: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Description, ...]:
    """What a path holds; damage and questions are listed as problems instead of raised.

    Raises
    ------
    ReadError
        Only if there is nothing at ``path`` or its format is unknown.
    """
    files, place = _files_of(path)
    kind = detect_format(place) if files is None else "pictures"
    try:
        if kind == "dicom":
            return _describe_dicom(place, spacing, contrast_series, progress)
        found = read_series(path, axes=axes, spacing=spacing)
    except (ReadError, ResourceError, ArgumentError) as error:
        return (Description(str(place), kind, place.name, problems=(str(error),)),)
    return tuple(
        Description(
            str(place),
            str(item.source.get("format", kind)),
            item.name,
            len(item),
            item.channels,
            item.grid.shape,
            item.grid.spacing if item.spacing_known else None,
            item.times_s,
            item.dtype.name,
            item.modality,
            item.notes,
        )
        for item in found
    )


def _describe_dicom(
    path: Path, spacing: tuple[float, ...] | None, contrast_series: bool, progress: Callable[[int], None] | None
) -> tuple[Description, ...]:
    from r2n2.io.dicom.listing import list_dicom

    listing = list_dicom(path, contrast_series=contrast_series, progress=progress)
    if not listing.groups:
        return (Description(str(path), "dicom", path.name, notes=listing.notes, problems=listing.problems),)
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
        for number, group in enumerate(listing.groups)
    )


def detect_format(path: Path) -> str:
    """Name of the format of a file or folder.

    Raises
    ------
    ReadError
        Naming the known formats, or why an archive is not opened.
    """
    if path.is_dir():
        return _folder_format(path)
    with read_errors(path, "image"), path.open("rb") as file:
        start = file.read(352)
    name = path.name.lower()
    if not start:
        raise ReadError(f"{path}: the file is empty; get an intact copy")
    for kind, matches in _signatures(start, name).items():
        if matches:
            return kind
    if start[:4] == b"PK\x03\x04" or name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".ozx")):
        raise ReadError(f"{path}: archives are not opened; unpack it yourself and read the folder or file inside")
    suffixed = {".nii": "nifti", ".nii.gz": "nifti", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy", ".gif": "gif", ".dcm": "dicom"}
    for suffix, kind in {**suffixed, ".mha": "mha", ".mhd": "mha", ".npz": "npz"}.items():
        if name.endswith(suffix):
            raise ReadError(
                f"{path}: named {suffix} but damaged or not a {kind} file (its first bytes are {start[:8]!r}); get an intact copy"
            )
    raise ReadError(f"{path}: unknown format; known are {KNOWN_FORMATS}")


def _signatures(start: bytes, name: str) -> dict[str, bool]:
    sizes = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    nifti = (start[:4] in sizes and (start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0"))) or (
        start[:2] == b"\x1f\x8b" and name.endswith((".nii.gz", ".gz")) and not name.endswith(".tar.gz")
    )
    return {
        "dicom": starts_like_dicom(start),
        "nifti": nifti or (name.endswith(".nii") and start[:4] in sizes),
        "tiff": start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "npy": start[:6] == b"\x93NUMPY",
        "npz": start[:4] in (b"PK\x03\x04", b"PK\x05\x06") and name.endswith(".npz"),
        "gif": start[:6] in (b"GIF87a", b"GIF89a"),
        "mha": name.endswith((".mha", ".mhd")) and b"=" in start and b"\0" not in start.split(b"=")[0],
        "pictures": start[:8] == b"\x89PNG\r\n\x1a\n" or start[:3] == b"\xff\xd8\xff",
    }


def _folder_format(path: Path) -> str:
    if any((path / name).exists() for name in (".zgroup", ".zarray", "zarr.json", ".zattrs")) or path.name.endswith(".zarr"):
        return "zarr"
    entries = _entries(path)
    others = [entry for entry in entries if entry.suffix.lower() not in PICTURE_SUFFIXES]
    if len(others) < len(entries) and not any(_is_dicom(entry) for entry in others[:_MOST_PROBED]):
        return "pictures"
    if not entries:
        raise ReadError(f"{path}: the folder is empty; known formats are {KNOWN_FORMATS}")
    return "dicom"


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with read_errors(path, "image"), path.open("rb") as file:
        return starts_like_dicom(file.read(132))


def _entries(path: Path) -> list[Path]:
    with read_errors(path, "folder"):
        entries = list(itertools.islice(path.iterdir(), _MOST_ENTRIES + 1))
    if len(entries) > _MOST_ENTRIES:
        raise ReadError(f"{path}: more than {_MOST_ENTRIES} entries; choose the folder of one acquisition")
    return [entry for entry in entries if not entry.name.startswith(".")]


def _files_of(path: str | os.PathLike[str]) -> tuple[list[Path] | None, Path]:
    """The picture files of a pattern or folder, or None for anything else; and the path to name in messages."""
    text = os.fspath(path)
    if any(sign in text for sign in "*?[") and not os.path.lexists(text):
        found = [Path(p) for p in itertools.islice(glob.iglob(text), _MOST_ENTRIES)]
        pictures = [p for p in found if p.suffix.lower() in PICTURE_SUFFIXES]
        if not pictures:
            raise ReadError(f"{text}: no .png or .jpg file fits this pattern ({len(found)} others do); check the pattern")
        return pictures, Path(text)
    place = existing(path)
    if place.is_dir():
        if _folder_format(place) != "pictures":
            return None, place
        return [entry for entry in _entries(place) if entry.suffix.lower() in PICTURE_SUFFIXES], place
    return ([place], place) if detect_format(place) == "pictures" else (None, place)


def _content(kind: str, path: Path, files: list[Path] | None, axes: str | None, max_bytes: int, allow_missing: bool) -> FileContent:
    if kind == "pictures":
        from r2n2.io.pictures import read_picture_stack

        return read_picture_stack(path, files or [path], max_bytes)
    if kind == "zarr":
        from r2n2.io.omezarr import read_zarr

        return read_zarr(path, axes, max_bytes, allow_missing=allow_missing)
    # Imported when needed: each loads its own library.
    if kind == "nifti":
        from r2n2.io.nifti import read_nifti as read
    elif kind == "mha":
        from r2n2.io.mha import read_mha as read
    elif kind == "tiff":
        from r2n2.io.tiff import read_tiff as read
    elif kind == "npy":
        from r2n2.io.arrays import read_npy as read
    elif kind == "npz":
        from r2n2.io.arrays import read_npz as read
    else:
        from r2n2.io.pictures import read_gif as read
    return read(path, axes, max_bytes)
