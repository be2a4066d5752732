"""MetaImage headers and the pixels they describe, for ITK fills what a truncated file lacks with zeros in silence.

The header's ``TransformMatrix`` lists the axes one after another: its first ``NDims`` numbers are the direction of x, a
column of the direction matrix. Everything in the file is x-first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.checks import existing, read_errors
from r2n2.io.mapped import MappedArray
from r2n2.io.stored_pixels import (
    StackedArrays,
    beside,
    mapped_pixels,
    numbered_names,
    read_text_numbers,
    stacked_files,
    unpacked_pixels,
)

__all__ = ["TYPES", "MetaImage", "header_numbers", "open_mha"]

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_LONGEST_LINE = 2**20
_LONGEST_HEADER = 2**26  # a tracked ultrasound sequence has some ten lines for each frame


@dataclass(frozen=True)
class MetaImage:
    """An opened MetaImage: its header and its pixels in array order (..., z, y, x[, component])."""

    header: dict[str, str]
    array: NDArray[Any] | MappedArray | StackedArrays
    spacing: tuple[float, ...] | None
    """X-first mm, None where the header has none."""
    origin: tuple[float, ...]
    direction: NDArray[np.float64]
    """X-first; column k is the direction of axis k."""
    components: int


def open_mha(path: Path, max_bytes: int) -> MetaImage:
    """Read the header, check the sizes it declares, then map or unpack the pixels.

    Raises
    ------
    ReadError
        If the file is no MetaImage, of an unsupported kind, or truncated.
    ResourceError
        If compressed pixels would need more than ``max_bytes``.
    """
    with read_errors(path, "MetaImage"):
        header, listed, start = _parse_header(path)
        ndim = _whole(path, header, "ndims")
        size = [int(n) for n in header_numbers(path, header, "dimsize", ndim) or ()]
        if not 1 <= ndim <= 10 or len(size) != ndim or min(size) < 0:
            raise ReadError(f"{path}: DimSize {size} does not fit NDims {ndim}; the header is damaged")
        components = _whole(path, header, "elementnumberofchannels", 1)
        dtype = _dtype(path, header)
        shape = (*reversed(size), components) if components > 1 else tuple(reversed(size))
        if math.prod(shape) == 0:
            raise ReadError(f"{path}: holds no frame or no pixel, DimSize is {size}; check how it was saved")
        array = _pixels(path, header, listed, start, shape, dtype, max_bytes)
        spacing = header_numbers(path, header, "elementspacing", ndim) or header_numbers(path, header, "elementsize", ndim)
        origin = next((v for key in ("offset", "position", "origin") if (v := header_numbers(path, header, key, ndim))), None)
        names = ("transformmatrix", "orientation", "rotation")
        matrix = next((v for key in names if (v := header_numbers(path, header, key, ndim * ndim))), None)
        direction = np.array(matrix).reshape(ndim, ndim).T if matrix else np.eye(ndim)
    return MetaImage(header, array, spacing, origin or (0.0,) * ndim, direction, components)


def header_numbers(path: Path, header: dict[str, str], key: str, count: int | None = None) -> tuple[float, ...] | None:
    """The numbers of an entry, None where there is no such entry.

    Raises
    ------
    ReadError
        If one is not a number, or there are not ``count``.
    """
    if key not in header:
        return None
    try:
        values = tuple(float(word) for word in header[key].split())
    except ValueError:
        raise ReadError(f"{path}: the entry {key} must be numbers, got {header[key][:80]!r}; correct the header") from None
    if count is not None and len(values) != count:
        raise ReadError(f"{path}: the entry {key} has {len(values)} numbers, {count} are needed; correct the header")
    return values


def _whole(path: Path, header: dict[str, str], key: str, default: int | None = None) -> int:
    if key not in header and default is not None:
        return default
    values = header_numbers(path, header, key, 1)
    if values is None or not values[0].is_integer():
        raise ReadError(f"{path}: the entry {key} must be a whole number, got {header.get(key)!r}; correct the header")
    return int(values[0])


def _parse_header(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Entries with keys in lower case, the file names that follow ``LIST``, and where the header ends."""
    header: dict[str, str] = {}
    listed: list[str] = []
    with path.open("rb") as file:
        while "elementdatafile" not in header:
            line = file.readline(_LONGEST_LINE)
            text = line.decode("utf-8", errors="surrogateescape").strip()
            if not line or file.tell() > _LONGEST_HEADER or ("=" not in text and text):
                raise ReadError(f"{path}: no MetaImage header, or one that ends too early; get an intact copy")
            if text:
                key, _, value = text.partition("=")
                # MetaIO's own keys are compared in lower case; values keep their case (file names).
                header[key.strip().lower()] = value.strip()
        start = file.tell()
        if header["elementdatafile"].upper().split()[:1] == ["LIST"]:
            listed = [line.strip() for line in file.read(_LONGEST_HEADER).decode("utf-8", "surrogateescape").splitlines()]
        return header, [name for name in listed if name], start


def _dtype(path: Path, header: dict[str, str]) -> np.dtype[Any]:
    name = header.get("elementtype", "").removesuffix("_ARRAY")
    if name not in TYPES:
        raise ReadError(f"{path}: pixel type {name!r} is not supported; convert it to one of {', '.join(TYPES)}")
    big = _true(header, "binarydatabyteordermsb") if "binarydatabyteordermsb" in header else _true(header, "elementbyteordermsb")
    return np.dtype((">" if big else "<") + TYPES[name])


def _true(header: dict[str, str], key: str, default: str = "False") -> bool:
    return header.get(key, default).lower() in ("true", "1", "yes")


def _pixels(
    path: Path,
    header: dict[str, str],
    listed: list[str],
    start: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    max_bytes: int,
) -> NDArray[Any] | MappedArray | StackedArrays:
    name = header["elementdatafile"]
    skip = _whole(path, header, "headersize", 0)
    if skip < -1:
        raise ReadError(f"{path}: the entry HeaderSize is {skip}; it must be -1 or the bytes before the pixels: correct the header")
    binary, packed = _true(header, "binarydata", "True"), _true(header, "compresseddata")
    names, inner = _file_names(path, header, listed, shape)
    if names:
        if packed or not binary:
            raise ReadError(f"{path}: packed or text pixels spread over several files are not supported; save it as one .mha")
        return stacked_files(path, names, skip, shape, dtype, inner=inner, entry="HeaderSize")
    data, offset = (path, start) if name.upper() == "LOCAL" else (beside(path, name), skip)
    if not binary:
        return read_text_numbers(existing(data), max(offset, 0), shape, dtype, max_bytes)
    if packed:
        return unpacked_pixels(data, max(offset, 0), shape, dtype, max_bytes)
    return mapped_pixels(data, offset, shape, dtype, "HeaderSize")


def _file_names(path: Path, header: dict[str, str], listed: list[str], shape: tuple[int, ...]) -> tuple[list[str], int]:
    """The files of pixels where there are several, and how many of the array's last axes each holds."""
    words = header["elementdatafile"].split()
    extra = int("elementnumberofchannels" in header and len(shape) > int(header["ndims"]))
    if words[:1] and words[0].upper() == "LIST":
        axes = words[1].upper().removesuffix("D") if len(words) > 1 else str(len(shape) - extra - 1)
        if not axes.isdecimal() or not 1 <= int(axes) < len(shape) - extra:
            raise ReadError(f"{path}: ElementDataFile {header['elementdatafile']!r} is not understood; write LIST or LIST 2D")
        return listed, int(axes) + extra
    name = header["elementdatafile"]
    if "%" not in name or (path.parent / name).is_file():
        return [], 0
    # A pattern, first, last and step; it may hold spaces itself.
    place = next((k for k, word in enumerate(words) if "%" in word), 0)
    numbers = [word for word in words[place + 1 :] if word.lstrip("+-").isdecimal()]
    first, last, step = (int(n) for n in (numbers + ["1", str(shape[0]), "1"][len(numbers) :])[:3])
    return numbered_names(path, " ".join(words[: place + 1]), first, last, step), len(shape) - 1
