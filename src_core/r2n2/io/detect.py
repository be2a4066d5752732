"""What format a path has: by its first bytes and its suffix, never by the suffix alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from r2n2.errors import ReadError
from r2n2.io.checks import read_errors
from r2n2.io.dicom.file import starts_like_dicom

__all__ = ["FRAME_KINDS", "KNOWN_FORMATS", "PICTURE_SUFFIXES", "detect_format", "files_by_kind", "folder_entries"]

KNOWN_FORMATS = (
    "DICOM file or folder, NIfTI and Analyze (.nii, .nii.gz, .hdr with .img), MetaImage (.mha, .mhd, .igs.mha), "
    "NRRD (.nrrd, .nhdr), TIFF (.tif, .tiff), OME-Zarr (.zarr), .npy, .npz, MATLAB (.mat), HDF5 (.h5), .gif, animated .png, "
    "video (.avi, .mp4), and a folder or pattern of single frames (.png, .jpg, .bmp, .tif or any of these)"
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".pnm", ".webp", ".jp2")
"""Pictures for the screen, one frame a file, that Pillow reads."""

FRAME_KINDS = {
    **dict.fromkeys(PICTURE_SUFFIXES, "pictures"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    **dict.fromkeys((".mha", ".mhd"), "mha"),
    **dict.fromkeys((".nrrd", ".nhdr"), "nrrd"),
    **dict.fromkeys((".nii", ".nii.gz", ".hdr"), "nifti"),
    ".npy": "npy",
}
"""Suffix -> format of the files that a folder may hold one frame in each of."""

_SUFFIXED = {
    ".nii": "nifti", ".nii.gz": "nifti", ".hdr": "nifti", ".img": "nifti", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy",
    ".gif": "gif", ".dcm": "dicom", ".mha": "mha", ".mhd": "mha", ".npz": "npz", ".nrrd": "nrrd", ".nhdr": "nrrd",
    ".h5": "hdf5", ".hdf5": "hdf5", ".avi": "video", ".mp4": "video", ".apng": "apng",
    **dict.fromkeys(PICTURE_SUFFIXES, "pictures"),
}  # fmt: skip
_PROPRIETARY = (".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".lsm5", ".zvi", ".ids", ".par", ".rec", ".fdf", ".2dseq")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".ozx", ".7z", ".rar")
_NIFTI_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_VIDEO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free")
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"\x30\x26\xb2\x75", b"FLV\x01")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_ENTRIES = 100_000
_MOST_PROBED = 20  # a DICOM folder may hold a few preview pictures


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
        start = file.read(4096)
    name = path.name.lower()
    if not start:
        raise ReadError(f"{path}: the file is empty; get an intact copy")
    for kind, matches in _signatures(start, name).items():
        if matches:
            return kind
    if name.endswith(".img") and path.with_suffix(".hdr").is_file():
        return "nifti"
    if name.endswith(_ARCHIVES) or start[:4] == b"PK\x03\x04" or start[:2] == b"\x1f\x8b":
        raise ReadError(f"{path}: archives are not opened; unpack it yourself and read the folder or file inside")
    for suffix, kind in sorted(_SUFFIXED.items(), key=lambda item: -len(item[0])):
        if name.endswith(suffix):
            raise ReadError(
                f"{path}: named {suffix} but damaged or not a {kind} file (its first bytes are {start[:8]!r}); get an intact copy"
            )
    if name.endswith(_PROPRIETARY):
        raise ReadError(
            f"{path}: this format of a maker is not read; save it as OME-TIFF or DICOM with the maker's program or Fiji"
        )
    raise ReadError(f"{path}: unknown format; known are {KNOWN_FORMATS}")


def _signatures(start: bytes, name: str) -> dict[str, bool]:
    packed = start[:2] == b"\x1f\x8b" and name.endswith((".gz", ".nii", ".hdr", ".img")) and not name.endswith(".tar.gz")
    magic = start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")
    return {
        "dicom": starts_like_dicom(start),
        "nifti": packed or (start[:4] in _NIFTI_SIZES and (magic or name.endswith((".nii", ".hdr")))),
        "tiff": start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "npy": start[:6] == b"\x93NUMPY",
        "npz": start[:4] in (b"PK\x03\x04", b"PK\x05\x06") and name.endswith(".npz"),
        "gif": start[:6] in (b"GIF87a", b"GIF89a"),
        "nrrd": start[:4] == b"NRRD",
        "hdf5": any(start[place : place + 8] == _HDF5 for place in (0, 512, 1024, 2048)),
        "mat": start[:10] == b"MATLAB 5.0" or name.endswith(".mat"),
        "mha": name.endswith((".mha", ".mhd")) and b"=" in start and b"\0" not in start.split(b"=")[0],
        "apng": start[:8] == _PNG and _is_animated(start),
        "webp": start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X" and bool(start[20] & 2),
        "pictures": _is_picture(start),
        "video": (start[:4] == b"RIFF" and start[8:12] == b"AVI ") or start[4:8] in _VIDEO_BOXES or start.startswith(_VIDEO_STARTS),
    }


def _is_animated(start: bytes) -> bool:
    """Whether a PNG declares several frames, as it must before its first pixels."""
    place = 8
    while place + 8 <= len(start) and start[place + 4 : place + 8] not in (b"IDAT", b"acTL"):
        place += 12 + int.from_bytes(start[place : place + 4], "big")
    return start[place + 4 : place + 8] == b"acTL"


def _is_picture(start: bytes) -> bool:
    return (
        start[:8] == _PNG
        or start[:3] == b"\xff\xd8\xff"
        or (start[:2] == b"BM" and start[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0"))
        or (start[:1] == b"P" and start[1:2] in b"1234567" and start[2:3].isspace())
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or start[:8] == b"\0\0\0\x0cjP  "
    )


def _folder_format(path: Path) -> str:
    if any((path / name).exists() for name in (".zgroup", ".zarray", "zarr.json", ".zattrs")) or path.name.endswith(".zarr"):
        return "zarr"
    entries = folder_entries(path)
    if not entries:
        raise ReadError(f"{path}: the folder is empty; known formats are {KNOWN_FORMATS}")
    kinds = files_by_kind(entries)
    if not kinds or any(_is_dicom(entry) for entry in _probed(entries, {file for files in kinds.values() for file in files})):
        return "dicom"
    if len(kinds) > 1:
        listed = ", ".join(f"{len(files)} {files[0].suffix}" for files in kinds.values())
        some = next(iter(kinds.values()))[0]
        raise ReadError(f"{path}: holds {listed} files; choose a file, or a pattern such as '{path / f'*{some.suffix}'}'")
    return next(iter(kinds)) if "pictures" in kinds else "frames"


def files_by_kind(entries: Iterable[Path]) -> dict[str, list[Path]]:
    """The files that may hold a frame each, by format."""
    kinds: dict[str, list[Path]] = {}
    for entry in entries:
        name = entry.name.lower()
        kind = FRAME_KINDS.get(".nii.gz" if name.endswith(".nii.gz") else entry.suffix.lower())
        if kind is not None:
            kinds.setdefault(kind, []).append(entry)
    return kinds


def _probed(entries: list[Path], known: set[Path]) -> list[Path]:
    """Files of which one that is DICOM makes the folder DICOM; also some one folder deeper."""
    others = [entry for entry in entries if entry not in known][:_MOST_PROBED]
    for folder in [entry for entry in others if entry.is_dir()][:5]:
        with read_errors(folder, "folder"):
            others += itertools.islice(folder.iterdir(), 5)
    return others


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with read_errors(path, "image"), path.open("rb") as file:
        return starts_like_dicom(file.read(132))


def folder_entries(path: Path) -> list[Path]:
    """What lies in a folder, hidden files left out.

    Raises
    ------
    ReadError
        If there is more than any acquisition has.
    """
    with read_errors(path, "folder"):
        entries = list(itertools.islice(path.iterdir(), _MOST_ENTRIES + 1))
    if len(entries) > _MOST_ENTRIES:
        raise ReadError(f"{path}: more than {_MOST_ENTRIES} entries; choose the folder of one acquisition")
    return [entry for entry in entries if not entry.name.startswith(".")]
