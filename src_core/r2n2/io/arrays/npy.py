"""NumPy files: .npy, mapped and never loaded whole, and .npz with the keys named below. Pickled objects are never loaded."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.arrays.beside import BESIDE, KEY_BYTES, array_content, image_names
from r2n2.io.assemble import FileContent
from r2n2.io.atomic import atomic_write
from r2n2.io.checks import check_declared_bytes, check_dtype, check_memory, choose_named, read_errors
from r2n2.io.stored_pixels import mapped_pixels
from r2n2.series import ImageSeries

__all__ = ["PIXEL_KEYS", "read_npy", "read_npz", "write_npy", "write_npz"]

PIXEL_KEYS = ("frames", "array")
"""Keys of an .npz that hold the pixels, where it has one of them; beside them those of ``beside.BESIDE``."""


def read_npy(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What a .npy holds; three axes are T, Y, X where that is plain from their sizes, anything else needs ``axes``.

    Raises
    ------
    ReadError
        If the file is damaged or its axes are not known.
    """
    with read_errors(path, "NumPy"), path.open("rb") as file:
        shape, fortran, dtype = _npy_header(path, file)
        check_dtype(path, dtype)
        if math.prod(shape) == 0:
            raise ReadError(f"{path}: holds no frame or no pixel, its array has shape {shape}; check how it was saved")
        array: Any = mapped_pixels(path, file.tell(), shape, dtype, "its header")
        if fortran:
            array = np.memmap(path, dtype, "r", array.offset, shape, "F")
    return array_content(path, "npy", array, {}, axes=axes, usual="TYX")


def read_npz(path: Path, axes: str | None, max_bytes: int, name: str | None = None) -> FileContent:
    """What an .npz holds under the key ``name``, ``frames`` or ``array``, with ``spacing``, ``times_s`` and ``axes`` if present.

    Raises
    ------
    ReadError
        If the file is damaged, several arrays may be the pixels, or the axes are not known.
    ResourceError
        If it would need more than ``max_bytes``.
    """
    with read_errors(path, "NumPy"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
        known = next((key for key in PIXEL_KEYS if key in members), None)
        if name is not None or known is None:
            known = choose_named(path, _able(path, archive, members), name, "arrays")
        array = _member(path, archive, members[known], max_bytes)
        beside = {key: _member(path, archive, members[key], KEY_BYTES) for key in BESIDE if key in members}
    return array_content(path, "npz", array, beside, axes=axes, usual="TYX")


def _able(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> list[str]:
    """Keys of the arrays that may be the pixels."""
    shapes = {}
    for key, info in members.items():
        with archive.open(info) as file:
            shapes[key] = _npy_header(path, file)[0]
    return image_names(shapes)


def write_npy(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write (T, Y, X), or (T, C, Y, X) where there are several channels, one frame in memory at a time."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        _write_frames(file, series, frames)


def write_npz(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write frames, axes, spacing, origin, direction and times under the keys that ``read_npz`` knows."""
    letters = ("T" if series.channels == 1 else "TC") + "ZYX"[-series.grid.ndim :]
    grid = series.patient_grid or series.grid
    extra: dict[str, Any] = {"axes": letters, "origin": grid.origin, "direction": grid.direction}
    if series.spacing_known:
        extra["spacing"] = grid.spacing
    if series.times_s is not None:
        extra["times_s"] = series.times_s
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        with archive.open("frames.npy", "w", force_zip64=True) as file:
            _write_frames(file, series, frames)
        for key, value in extra.items():
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(value), allow_pickle=False)
            archive.writestr(f"{key}.npy", buffer.getvalue())


def _write_frames(file: Any, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    inner = series.grid.shape if series.channels == 1 else (series.channels, *series.grid.shape)
    dtype = series.dtype.newbyteorder("=")
    header = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": (len(series), *inner)}
    npy_format.write_array_header_1_0(file, header)
    for frame in frames:
        file.write(np.ascontiguousarray(frame, dtype=dtype).tobytes())


def _npy_header(path: Path, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if any(n < 0 for n in shape):
        raise ReadError(f"{path}: its array has shape {shape}; the header is damaged")
    return shape, fortran, dtype


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> NDArray[Any]:
    # Nothing is extracted to disk; the size that the inner header declares is compared before anything is unpacked.
    with archive.open(info) as file:
        shape, _, dtype = _npy_header(path, file)
        if dtype.kind not in "SU":
            check_dtype(path, dtype)
        declared = math.prod(shape) * dtype.itemsize
        check_declared_bytes(path, declared, info.file_size)
        check_memory(path, declared, max_bytes)
    with archive.open(info) as file:
        return np.asarray(npy_format.read_array(file, allow_pickle=False))
