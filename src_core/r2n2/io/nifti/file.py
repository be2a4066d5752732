"""Opening NIfTI and Analyze files: one file or a pair, packed or not, whatever the suffix says; sizes are checked first."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.checks import check_declared_bytes, check_dtype, check_memory, existing, import_package
from r2n2.io.mapped import MappedArray

__all__ = ["NiftiFile", "open_nifti"]

_SECOND_VERSION = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_LARGEST_EXTENSION = 2**24
_LARGEST_PADDING = 2**20
_GZIP_RATIO = 1040


@dataclass(frozen=True)
class NiftiFile:
    """A parsed header, the extensions' bytes and the pixels (slow axis first), not yet scaled."""

    header: Any
    extensions: bytes
    array: NDArray[Any] | MappedArray
    colour: bool
    notes: tuple[str, ...] = ()


def open_nifti(path: Path, max_bytes: int) -> NiftiFile:
    """Read the header of a file or pair, then map or unpack its pixels, to the last byte so that the checksum counts.

    Raises
    ------
    ReadError
        If it is no NIfTI or Analyze, a part is missing, or the pixels are fewer or more than declared.
    ResourceError
        If packed pixels would need more than ``max_bytes``.
    """
    first, second = _pair(path)
    with _unpacked(first) as (file, packed):
        header, extensions, single, notes = _header(first, file)
    data = first if single else second
    if data is None:
        raise ReadError(f"{first}: the header of a pair, whose pixels belong into an .img file of the same name; put it beside")
    if packed and first.suffix.lower() not in (".gz", ".img"):
        notes = (*notes, "packed by gzip, though its name does not say so")
    shape, dtype, colour = _layout(first, header)
    offset = _offset(first, header)
    whole = (*shape[::-1], colour) if colour else shape[::-1]  # the colours of a pixel lie side by side
    return NiftiFile(header, extensions, _pixels(data, offset, whole, dtype, max_bytes), bool(colour), notes)


def _pair(path: Path) -> tuple[Path, Path | None]:
    """The file of the header, and that of the pixels of a pair."""
    name = path.name
    stem, packed = (name[:-3], name[-3:]) if name.lower().endswith(".gz") else (name, "")
    if not stem.lower().endswith((".hdr", ".img")):
        return path, None
    upper = stem[-3:].isupper()
    places = []
    for suffix in ("hdr", "img"):
        names = [f"{stem[:-3]}{suffix.upper() if upper else suffix}{end}" for end in (packed, "" if packed else ".gz")]
        places.append(next((path.with_name(other) for other in names if path.with_name(other).is_file()), None))
    header, pixels = places
    return (path if header is None else existing(header)), pixels


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file, False
            return
        with gzip.open(file, "rb") as unpacked:
            yield unpacked, True  # type: ignore[misc]  # reads and seeks as a file does


def _header(path: Path, file: BinaryIO) -> tuple[Any, bytes, bool, tuple[str, ...]]:
    """Header, extensions, whether the pixels follow, and notes."""
    nibabel = import_package("nibabel", "reading NIfTI")
    start = file.read(4)
    kind = nibabel.Nifti2Header if start in _SECOND_VERSION else nibabel.Nifti1Header
    block = start + file.read(kind.sizeof_hdr - 4)
    if len(block) < kind.sizeof_hdr:
        raise ReadError(f"{path}: truncated, the NIfTI header has {len(block)} of {kind.sizeof_hdr} bytes; get a complete copy")
    header = kind(block, check=False)
    magic = bytes(header["magic"])[:3]
    if magic in (b"ni1", b"ni2"):
        return header, b"", False, ()
    if magic not in (b"n+1", b"n+2"):
        if kind is nibabel.Nifti2Header or path.name.lower().endswith((".nii", ".nii.gz")):
            raise ReadError(f"{path}: not a NIfTI file (magic {magic!r}); get an intact copy")
        return _from_analyze(path, block), b"", False, ("Analyze 7.5: it holds no orientation and no unit of time",)
    length = _offset(path, header) - kind.sizeof_hdr
    if length < 0:
        raise ReadError(f"{path}: its pixels are said to start at byte {header['vox_offset']}; the header is damaged")
    return header, file.read(length) if length <= _LARGEST_EXTENSION else b"", True, ()


def _from_analyze(path: Path, block: bytes) -> Any:
    """An Analyze header as that of a NIfTI without orientation; SPM keeps the scale of the values where Analyze has a spare."""
    nibabel = import_package("nibabel", "reading Analyze")
    old = nibabel.Spm99AnalyzeHeader(block, check=False)
    header = nibabel.Nifti1Header()
    for field in ("dim", "datatype", "bitpix", "vox_offset"):
        header[field] = old[field]
    header["pixdim"][1:] = old["pixdim"][1:]
    header["xyzt_units"] = 2
    slope = float(old["scl_slope"])
    header["scl_slope"], header["scl_inter"] = (slope if slope else 1.0), 0.0
    return header


def _offset(path: Path, header: Any) -> int:
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < 0 or offset != int(offset):
        raise ReadError(f"{path}: its pixels are said to start at byte {offset}; the header is damaged")
    return int(offset)


def _layout(path: Path, header: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise ReadError(f"{path}: declares {count} axes; a NIfTI has 1 to 7, the header is damaged")
    shape = [int(n) for n in header["dim"][1 : count + 1]]
    if min(shape) < 0 or len(shape) < 2:
        raise ReadError(f"{path}: dim {shape} is not an image; the header is damaged")
    if min(shape) == 0:
        raise ReadError(f"{path}: holds no frame or no pixel, dim is {shape}; check how it was saved")
    while len(shape) > 4 and shape[-1] == 1:
        shape.pop()
    dtype = header.get_data_dtype()
    if dtype.names:
        return tuple(shape), np.dtype("u1"), len(dtype.names)
    return tuple(shape), check_dtype(path, dtype), 0


def _pixels(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], max_bytes: int) -> NDArray[Any] | MappedArray:
    declared = math.prod(shape) * dtype.itemsize
    one = math.prod(shape[-2:]) * dtype.itemsize
    with _unpacked(path) as (file, packed):
        if not packed:
            size = path.stat().st_size - offset
            check_declared_bytes(path, declared, size)
            _check_no_more(path, size - declared, one)
            return MappedArray(path, dtype, offset, shape)
        # gzip packs at most about 1032 to 1, so a header that declares more is forged.
        check_declared_bytes(path, declared, path.stat().st_size * _GZIP_RATIO)
        check_memory(path, declared, max_bytes)
        file.seek(offset)
        pixels = file.read(declared)
        check_declared_bytes(path, declared, len(pixels))
        # To the end, where the checksum is compared.
        _check_no_more(path, len(file.read(_LARGEST_PADDING + 1)), one)
    return np.frombuffer(pixels, dtype).reshape(shape)


def _check_no_more(path: Path, more: int, one: int) -> None:
    """Padding is common, more frames than the header declares are damage."""
    if more > _LARGEST_PADDING:
        raise ReadError(f"{path}: goes on for more than 1 MiB after the pixels its header declares; get an intact copy")
    if more >= one:
        raise ReadError(
            f"{path}: goes on for {more} bytes, {more // one} slices, after the pixels its header declares; get an intact copy"
        )
