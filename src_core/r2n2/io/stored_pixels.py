"""Pixels that a text header describes, as MetaImage and NRRD have them: mapped, unpacked within bounds, or one file a frame."""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.checks import check_declared_bytes, check_memory, existing
from r2n2.io.mapped import MappedArray

__all__ = ["StackedArrays", "beside", "mapped_pixels", "numbered_names", "read_text_numbers", "stacked_files", "unpacked_pixels"]

_MOST_FILES = 100_000
_SPARE_BYTES = 16
_ZLIB_RATIO = 1040
_BZIP2_RATIO = 60_000


@dataclass(frozen=True, eq=False)
class StackedArrays:
    """Arrays of one shape in the order of the leading axes; one is read when it is indexed."""

    parts: tuple[Any, ...]
    shape: tuple[int, ...]
    leading: int
    """How many axes count the parts."""
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of all pixels in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        numbers = np.arange(len(self.parts)).reshape(self.shape[: self.leading])[where[: self.leading]]
        read = [np.asarray(self.parts[int(k)]) for k in numbers.ravel()]
        stack = np.stack(read).reshape(*numbers.shape, *self.shape[self.leading :])
        return np.asarray(stack[(slice(None),) * numbers.ndim + tuple(where[self.leading :])])

    def min(self) -> float:
        """Smallest value of all pixels."""
        return float(min(np.asarray(part).min() for part in self.parts))


def beside(header: Path, name: str) -> Path:
    """A file that a header names, which must lie in the header's folder.

    Raises
    ------
    ReadError
        If it lies elsewhere on the machine or does not exist.
    """
    data = header.parent / name
    try:
        outside = data.resolve().parent != header.parent.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise ReadError(f"{header}: its pixels are said to lie in {name[:120]!r}, which is no usable name ({error})") from None
    if outside:
        raise ReadError(f"{header}: its pixels are said to lie in {name!r}, outside the header's folder; put both in one folder")
    if not data.exists():
        raise ReadError(f"{header}: its pixels are said to lie in {name!r}, and there is no such file beside it; copy it there too")
    return existing(data)


def numbered_names(path: Path, pattern: str, first: int, last: int, step: int) -> list[str]:
    """File names of a pattern such as ``frame_%03d.raw``.

    Raises
    ------
    ReadError
        If the pattern or its numbers are wrong.
    """
    before, sign, after = pattern.partition("%")
    width, kind = after[: len(after) - len(after.lstrip("0123456789"))], after.lstrip("0123456789")
    if not sign or kind[:1] not in ("d", "i", "u") or "%" in kind or len(width) > 3 or int(width or 0) > 20:
        raise ReadError(f"{path}: the pattern of file names {pattern!r} is not understood; it needs one %d, such as frame_%03d.raw")
    if step == 0 or not 0 < (last - first) // step + 1 <= _MOST_FILES:
        raise ReadError(f"{path}: the pattern {pattern!r} counts from {first} to {last} by {step}, which is no list of files")
    filled = "0" if width.startswith("0") else " "
    return [
        f"{before}{str(k).rjust(int(width or 0), filled)}{kind[1:]}" for k in range(first, last + (1 if step > 0 else -1), step)
    ]


def mapped_pixels(data: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], entry: str) -> MappedArray:
    """Uncompressed pixels from byte ``offset``; -1 counts them from the end of the file.

    Raises
    ------
    ReadError
        If the file holds fewer bytes than declared, or more, or ``entry`` of the header gives no usable place.
    """
    declared = math.prod(shape) * dtype.itemsize
    size = data.stat().st_size
    if offset == -1:
        check_declared_bytes(data, declared, size)
        return MappedArray(data, dtype, size - declared, shape)
    if offset < 0:
        raise ReadError(f"{data}: its pixels are said to start at byte {offset} ({entry}); correct the header")
    check_declared_bytes(data, declared, size - offset)
    more = size - offset - declared
    if more > _SPARE_BYTES:
        one = math.prod(shape[1:]) * dtype.itemsize
        raise ReadError(
            f"{data}: goes on for {more} bytes ({more / one:.3g} frames or slices) after the pixels its header declares: "
            "the header or the pixels are damaged; get an intact copy"
        )
    return MappedArray(data, dtype, offset, shape)


def stacked_files(
    header: Path, names: Sequence[str], offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, inner: int, entry: str
) -> StackedArrays:
    """Pixels of which every file holds the last ``inner`` axes.

    Raises
    ------
    ReadError
        If their number does not fit the shape, or one is missing or of another length.
    """
    leading = len(shape) - inner
    wanted = math.prod(shape[:leading])
    if leading < 1 or len(names) != wanted:
        raise ReadError(
            f"{header}: names {len(names)} files of pixels, and its size needs {wanted}; list one file for each frame or slice"
        )
    parts = tuple(mapped_pixels(beside(header, name), offset, shape[leading:], dtype, entry) for name in names)
    return StackedArrays(parts, shape, leading, dtype)


def unpacked_pixels(
    data: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], max_bytes: int, *, codec: str = "gzip", skip: int = 0
) -> NDArray[Any]:
    """Pixels packed by zlib, gzip or bzip2, of which ``skip`` unpacked bytes come first (-1: all but the pixels).

    Raises
    ------
    ReadError
        If another number of bytes than declared comes out.
    ResourceError
        If they need more than ``max_bytes``.
    """
    declared = math.prod(shape) * dtype.itemsize
    # What packs better than these ratios is forged.
    check_declared_bytes(data, declared, (data.stat().st_size - offset) * (_BZIP2_RATIO if codec == "bzip2" else _ZLIB_RATIO))
    check_memory(data, declared + max(skip, 0), max_bytes)
    with data.open("rb") as file:
        file.seek(offset)
        raw, whole = (_bunzip if codec == "bzip2" else _unzip)(file, declared + max(skip, 0))
    pixels = raw[skip:] if skip > 0 else raw
    if len(pixels) != declared or not whole:
        more = "at least " if len(pixels) > declared else ""
        raise ReadError(
            f"{data}: {more}{len(pixels)} bytes of pixels were unpacked, the header declares {declared}; get a complete copy"
        )
    return np.frombuffer(pixels, dtype=dtype).reshape(shape)


def _unzip(file: BinaryIO, most: int) -> tuple[bytearray, bool]:
    """The unpacked bytes, at most a little more than asked for, and whether the packed ones end as they should."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    raw = bytearray()
    while not unpacker.eof and len(raw) <= most:
        packed = unpacker.unconsumed_tail or file.read(2**20)
        if not packed:
            break
        raw += unpacker.decompress(packed, 2**22)
    return raw, unpacker.eof


def _bunzip(file: BinaryIO, most: int) -> tuple[bytearray, bool]:
    unpacker = bz2.BZ2Decompressor()
    raw = bytearray()
    while not unpacker.eof and len(raw) <= most:
        packed = file.read(2**20) if unpacker.needs_input else b""
        if not packed and unpacker.needs_input:
            break
        raw += unpacker.decompress(packed, 2**22)
    return raw, unpacker.eof


def read_text_numbers(data: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], max_bytes: int) -> NDArray[Any]:
    """Pixels written as text, numbers apart by spaces.

    Raises
    ------
    ReadError
        If there are fewer or more numbers than declared, or something is no number.
    """
    count = math.prod(shape)
    check_declared_bytes(data, count, data.stat().st_size - offset)
    check_memory(data, data.stat().st_size * 8, max_bytes)
    with data.open("rb") as file:
        file.seek(offset)
        words = file.read().split()
    if len(words) != count:
        raise ReadError(f"{data}: holds {len(words)} numbers of pixels, the header declares {count}; get a complete copy")
    number: Callable[[bytes], Any] = float if dtype.kind == "f" else int
    try:
        return np.array([number(word) for word in words], dtype=dtype).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise ReadError(f"{data}: its pixels are text and not all numbers of type {dtype} ({error}); correct it") from None
