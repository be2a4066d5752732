"""NRRD headers, parsed by pynrrd, and the pixels they describe, attached or in files beside; sizes are checked first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.checks import import_package, read_errors
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

__all__ = ["Nrrd", "open_nrrd"]

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"
    ),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_LONGEST_LINE = 2**20
_LONGEST_HEADER = 2**26
_MOST_AXES = 16  # as the format says


@dataclass(frozen=True)
class Nrrd:
    """An opened NRRD: fields and key/value pairs as pynrrd parses them, pixels in array order (slow to fast)."""

    header: dict[str, Any]
    array: NDArray[Any] | MappedArray | StackedArrays

    def axis_words(self, field: str) -> list[str]:
        """A field of one word an axis, fast to slow; "" where the file has none."""
        words = [str(word) for word in self.header.get(field, ())]
        return words if len(words) == len(self.array.shape) else [""] * len(self.array.shape)


def open_nrrd(path: Path, max_bytes: int) -> Nrrd:
    """Read the header, check the sizes it declares, then map or unpack the pixels.

    Raises
    ------
    ReadError
        If the file is no NRRD, of an unsupported kind, or truncated.
    ResourceError
        If packed pixels would need more than ``max_bytes``.
    """
    nrrd = import_package("nrrd", "reading NRRD", "pynrrd")
    with read_errors(path, "NRRD"):
        with path.open("rb") as file:
            lines, listed = _header_lines(path, file)
            start = file.tell()
        header = dict(nrrd.read_header(lines))
        size = [int(n) for n in header.get("sizes", ())]
        if len(size) != int(header.get("dimension", -1)) or not 1 <= len(size) <= _MOST_AXES or min(size) < 0:
            raise ReadError(f"{path}: the entry sizes {size} does not fit dimension {header.get('dimension')}; correct the header")
        if math.prod(size) == 0:
            raise ReadError(f"{path}: holds no frame or no pixel, sizes are {size}; check how it was saved")
        array = _pixels(path, header, listed, start, tuple(reversed(size)), max_bytes)
    return Nrrd(header, array)


def _header_lines(path: Path, file: BinaryIO) -> tuple[list[str], list[str]]:
    """The lines of the header up to the pixels, and the file names after ``data file: LIST``."""
    lines: list[str] = []
    while True:
        line = file.readline(_LONGEST_LINE)
        if file.tell() > _LONGEST_HEADER:
            raise ReadError(f"{path}: its header does not end; get an intact copy")
        text = line.decode("utf-8", errors="replace").rstrip()
        field, _, value = text.partition(":")
        if not text:
            return lines, []
        lines.append(text)
        if field.strip() in ("data file", "datafile") and value.split()[:1] == ["LIST"]:
            names = file.read(_LONGEST_HEADER).decode("utf-8", "surrogateescape").splitlines()
            return lines, [name.strip() for name in names if name.strip()]


def _pixels(
    path: Path, header: dict[str, Any], listed: list[str], start: int, shape: tuple[int, ...], max_bytes: int
) -> NDArray[Any] | MappedArray | StackedArrays:
    encoding = str(header.get("encoding", "")).lower()
    dtype = _dtype(path, header, encoding)
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    line_skip = int(header.get("line skip", header.get("lineskip", 0)))
    if skip < -1 or line_skip < 0:
        raise ReadError(f"{path}: byte skip {skip} or line skip {line_skip} is no place in a file; correct the header")
    names, inner = _file_names(path, header, listed, shape)
    if len(names) > 1 or listed:
        if encoding != "raw" or line_skip:
            raise ReadError(f"{path}: packed or text pixels spread over several files are not supported; save it as one .nrrd")
        return stacked_files(path, names, skip, shape, dtype, inner=inner, entry="byte skip")
    data = beside(path, names[0]) if names else path
    place = _after_lines(data, 0 if names else start, line_skip)
    if encoding == "raw":
        return mapped_pixels(data, -1 if skip == -1 else place + skip, shape, dtype, "byte skip")
    if encoding in ("ascii", "text", "txt"):
        return read_text_numbers(data, place + max(skip, 0), shape, dtype, max_bytes)
    if encoding in ("gzip", "gz", "bzip2", "bz2"):
        codec = "gzip" if encoding.startswith("gz") else "bzip2"
        return unpacked_pixels(data, place, shape, dtype, max_bytes, codec=codec, skip=skip)
    raise ReadError(f"{path}: the encoding {encoding[:40]!r} is not supported; save it as raw or gzip")


def _dtype(path: Path, header: dict[str, Any], encoding: str) -> np.dtype[Any]:
    name = str(header.get("type", "")).lower()
    if name not in _TYPES:
        raise ReadError(f"{path}: pixel type {name[:40]!r} is not supported; save it as whole numbers or floating point")
    dtype = np.dtype(_TYPES[name])
    endian = str(header.get("endian", "")).lower()
    if dtype.itemsize > 1 and encoding not in ("ascii", "text", "txt"):
        if endian not in ("big", "little"):
            raise ReadError(f"{path}: the entry endian must be big or little, got {endian[:40]!r}; correct the header")
        return dtype.newbyteorder(">" if endian == "big" else "<")
    return dtype


def _file_names(path: Path, header: dict[str, Any], listed: list[str], shape: tuple[int, ...]) -> tuple[list[str], int]:
    """The files of the pixels, none where they are attached, and how many of the array's last axes each of several holds."""
    text = str(header.get("data file", header.get("datafile", "")))
    words = text.split()
    if words[:1] == ["LIST"]:
        inner = words[1] if len(words) > 1 else str(len(shape) - 1)
        if not inner.isdecimal() or not 1 <= int(inner) < len(shape):
            raise ReadError(f"{path}: the entry data file {text!r} is not understood; write LIST or LIST 2")
        return listed, int(inner)
    if "%" not in text or len(words) < 4:
        return ([text] if text else []), 0
    numbers = words[1:5]
    if any(not word.lstrip("+-").isdecimal() for word in numbers):
        raise ReadError(f"{path}: the entry data file {text!r} is not understood; it needs a pattern, first, last and step")
    first, last, step = (int(word) for word in numbers[:3])
    inner_axes = int(numbers[3]) if len(numbers) > 3 else len(shape) - 1
    if not 1 <= inner_axes < len(shape):
        raise ReadError(f"{path}: the entry data file {text!r} names {inner_axes} axes a file, and the image has {len(shape)}")
    return numbered_names(path, words[0], first, last, step), inner_axes


def _after_lines(data: Path, start: int, lines: int) -> int:
    with data.open("rb") as file:
        file.seek(start)
        for _ in range(min(lines, 2**16)):
            file.readline(_LONGEST_LINE)
        return file.tell()
