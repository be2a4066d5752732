"""MATLAB files up to version 7 by scipy; those of version 7.3 are HDF5 and read there."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.arrays.beside import BESIDE, KEY_BYTES, array_content, image_names
from r2n2.io.assemble import FileContent
from r2n2.io.checks import check_declared_bytes, check_dtype, check_memory, choose_named, import_package, read_errors

__all__ = ["read_mat"]

_BYTES = {"double": 8, "single": 4, "logical": 1, **{f"{u}int{8 * n}": n for n in (1, 2, 4, 8) for u in ("", "u")}}
_HEADER_BYTES = 128
_COMPRESSED = 15


def read_mat(path: Path, axes: str | None, max_bytes: int, name: str | None = None) -> FileContent:
    """What a MATLAB file holds: the variable ``name``, or the only one that can be a series; rows, columns, frames as usual there.

    Raises
    ------
    ReadError
        If it is damaged, holds several variables that can be a series, or none.
    ResourceError
        If it would need more than ``max_bytes``.
    """
    scipy_io = import_package("scipy.io", "reading MATLAB files", "scipy")
    with read_errors(path, "MATLAB"):
        file = _unpacked(path, max_bytes)
        listed = {entry[0]: (entry[1], entry[2]) for entry in scipy_io.whosmat(file)}
        numeric = {key: shape for key, (shape, kind) in listed.items() if kind in _BYTES}
        names = image_names(numeric)
        if not names and name is None:
            held = ", ".join(f"{key} ({kind})" for key, (_, kind) in list(listed.items())[:10]) or "nothing"
            raise ReadError(f"{path}: holds {held}, and no array of frames; save the array itself as a variable of its own")
        chosen = choose_named(path, names, name, "variables")
        wanted = [chosen, *(key for key in BESIDE if key in listed and _small(listed[key][0]))]
        declared = math.prod(listed[chosen][0]) * _BYTES[listed[chosen][1]]
        check_declared_bytes(path, declared, file.seek(0, io.SEEK_END))
        check_memory(path, declared, max_bytes)
        file.seek(0)
        found: dict[str, Any] = scipy_io.loadmat(file, variable_names=wanted, chars_as_strings=True)
        array = np.asarray(found[chosen])
        check_dtype(path, array.dtype)
        if array.shape != tuple(listed[chosen][0]):
            raise ReadError(
                f"{path}: its variable {chosen} has shape {array.shape} and declares {listed[chosen][0]}; it is damaged"
            )
    beside = {key: np.asarray(found[key]) for key in wanted[1:] if key in found}
    return array_content(path, "mat", array, beside, axes=axes, usual="YXT", notes=(f"the variable {chosen} was read",))


def _unpacked(path: Path, max_bytes: int) -> BinaryIO:
    """The file with its packed variables unpacked, as scipy's own reading of a damaged packed one ends the process."""
    check_memory(path, path.stat().st_size, max_bytes)
    data = path.read_bytes()
    if data[:10] != b"MATLAB 5.0" or len(data) < _HEADER_BYTES:
        return io.BytesIO(data)
    order: Any = "big" if data[126:128] == b"MI" else "little"
    parts, place, held = [data[:_HEADER_BYTES]], _HEADER_BYTES, _HEADER_BYTES
    while place < len(data):
        kind, size = (int.from_bytes(data[at : at + 4], order) for at in (place, place + 4))
        content = data[place + 8 : place + 8 + size]
        if len(content) < size or place + 8 > len(data):
            raise ReadError(f"{path}: truncated, a variable at byte {place} declares {size} bytes; get a complete copy")
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            part = unpacker.decompress(content, max(max_bytes - held, 1))
            check_memory(path, held + len(part) + (0 if unpacker.eof or not unpacker.unconsumed_tail else max_bytes), max_bytes)
            if not unpacker.eof:
                raise ReadError(f"{path}: the packed variable at byte {place} ends too early; get a complete copy")
        else:
            part = data[place : place + 8 + size]
        parts.append(part)
        held += len(part)
        place += 8 + size
    return io.BytesIO(b"".join(parts))


def _small(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) * 8 <= KEY_BYTES
