"""Which image series lie below a data folder, and whose they are by the names of files and folders.

The patient of a file: the name up to the first "-IM-" where it holds one; else the top folder below the data folder; else,
directly in the data folder, the file's name without suffix (and a picture's without its trailing number). DICOM's own PatientID
goes before all of these. So several files of one patient belong in a folder of that patient.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from r2n2.errors import R2N2Error
from r2n2.io.detect import PICTURE_SUFFIXES, detect_format
from r2n2.io.pictures.stack import natural_order

__all__ = ["Found", "find_series", "patient_by_name"]

_ZARR_MARKS = frozenset({".zgroup", ".zarray", "zarr.json", ".zattrs"})
_SUFFIXES = re.compile(
    r"(\.(dcm|ima|nii|gz|hdr|img|mha|mhd|igs|nrrd|nhdr|seq|seg|tiff?|ome|zarr|npy|npz|mat|h5|hdf5"
    r"|gif|a?png|jpe?g|bmp|pgm|ppm|pnm|webp|jp2|avi|mp4))+$",
    re.IGNORECASE,
)
_MARK = "-IM-"


@dataclass(frozen=True)
class Found:
    """Something to read.

    Parameters
    ----------
    kind
        "dicom" for a folder, "pictures" for some files of a folder, "file" for a file or Zarr folder of its own.
    root
        The data folder.
    path
        Folder or file.
    files
        The pictures, in order.
    patient
        By the names.
    """

    kind: str
    root: Path
    path: Path
    files: tuple[Path, ...]
    patient: str


def find_series(root: Path, *, phases: int | None = None) -> Iterator[Found | str]:
    """Everything below a data folder that a reader may know, or a note about what none knows.

    Parameters
    ----------
    root
        The data folder, or a single file.
    phases
        Pictures called <patient>-IM-<study>-<number> are numbered through the slices with so many frames each; None if that is
        not known: each of them is then a slice of its own, as frames of different slices must not be paired.
    """
    if root.is_file():
        for found in _files_of(root.parent, [root], phases, in_dicom=False):
            if isinstance(found, Path):
                yield f"{root}: left out, no reader knows it"
            else:
                yield replace(found, path=root)  # of a DICOM folder only the series that the file belongs to
        return
    unknown: list[Path] = []
    dicom_folders: set[Path] = set()
    for name, folders, names in os.walk(root):
        folder = Path(name)
        if folder.name.endswith(".zarr") or _ZARR_MARKS & set(names):
            folders.clear()
            yield Found("file", root, folder, (), patient_by_name(root, folder))
            continue
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        files = [folder / entry for entry in sorted(names) if not entry.startswith(".")]
        # The DICOM reader looks into the folders below as well.
        in_dicom = any(parent in dicom_folders for parent in folder.parents)
        for found in _files_of(root, files, phases, in_dicom=in_dicom):
            if isinstance(found, Path):
                unknown.append(found)
                continue
            if found.kind == "dicom":
                dicom_folders.add(found.path)
            yield found
    if unknown:
        more = ", ..." if len(unknown) > 3 else ""
        yield f"{root}: {len(unknown)} files were left out that no reader knows ({', '.join(f.name for f in unknown[:3])}{more})"


def patient_by_name(root: Path, path: Path) -> str:
    """Whose a file or folder below ``root`` is, by the rule above."""
    if _MARK in path.name:
        return path.name.split(_MARK)[0]
    parts = path.relative_to(root).parts if path != root else ()
    if len(parts) > 1:
        return parts[0]
    return _series_name(path) or root.resolve().name


def _files_of(root: Path, files: list[Path], phases: int | None, *, in_dicom: bool) -> Iterator[Found | Path]:
    pictures: dict[tuple[str, int], list[Path]] = {}
    dicom = None
    for file in files:
        if file.suffix.lower() in PICTURE_SUFFIXES:
            pictures.setdefault(_picture_series(file, phases), []).append(file)
            continue
        if file.suffix.lower() == ".img" and file.with_suffix(".hdr") in files:
            continue  # the pixels of a pair, which its header names
        try:
            kind = detect_format(file)
        except (R2N2Error, OSError):
            yield file
            continue
        if kind == "dicom":
            dicom = file.parent
        else:
            yield Found("file", root, file, (), patient_by_name(root, file))
    if dicom is not None and not in_dicom:
        # For a folder its own name, where it lies directly in the data folder, and not the name of a file in it.
        yield Found("dicom", root, dicom, (), patient_by_name(root, dicom))
    for members in pictures.values():
        ordered = tuple(sorted(members, key=natural_order))
        yield Found("pictures", root, ordered[0], ordered, patient_by_name(root, ordered[0]))


def _picture_series(file: Path, phases: int | None) -> tuple[str, int]:
    """Which pictures of a folder are frames of one series."""
    number = re.search(r"(\d+)$", _SUFFIXES.sub("", file.name))
    if _MARK not in file.name or number is None:
        return _series_name(file), -1
    count = int(number[1])
    return _series_name(file), count if phases is None else (count - 1) // phases


def _series_name(path: Path) -> str:
    stem = _SUFFIXES.sub("", path.name)
    return re.sub(r"[-_ .]*\d+$", "", stem) if path.suffix.lower() in PICTURE_SUFFIXES else stem
