"""NumPy files: .npy, mapped and never loaded whole, and .npz with the keys named below. Pickled objects are never loaded."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.atomic import atomic_write
from r2n2.io.checks import check_declared_bytes, check_dtype, check_memory, check_spacing, read_errors, wrapped_note
from r2n2.io.mapped import MappedArray
from r2n2.io.placement import Placement, orthonormal
from r2n2.series import ImageSeries

__all__ = ["PIXEL_KEYS", "read_npy", "read_npz", "write_npy", "write_npz"]

PIXEL_KEYS = ("frames", "array")
"""Keys of an .npz that may hold the pixels; beside them ``spacing``, ``times_s``, ``axes``, ``origin`` and ``direction``."""

_KEY_BYTES = 2**24  # every key but the pixels is small
_COLOURS = (3, 4)


def read_npy(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What a .npy holds; three axes are T, Y, X unless one looks like colour, any other number needs ``axes``.

    Raises
    ------
    ReadError
        If the file is damaged or its axes are not known.
    """
    with read_errors(path, "NumPy"), path.open("rb") as file:
        shape, fortran, dtype = _npy_header(file)
        check_dtype(path, dtype)
        offset = file.tell()
        check_declared_bytes(path, math.prod(shape) * dtype.itemsize, path.stat().st_size - offset)
        if math.prod(shape) == 0:
            raise ReadError(f"{path}: holds no frame or no pixel, its array has shape {shape}; check how it was saved")
        array: Any = np.memmap(path, dtype, "r", offset, shape, "F") if fortran else MappedArray(path, dtype, offset, shape)
    return FileContent(path, "npy", array, _default_axes(shape), notes=_notes(array))


def read_npz(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What an .npz holds under the key ``frames`` or ``array``, with ``spacing``, ``times_s`` and ``axes`` where present.

    Raises
    ------
    ReadError
        If the file is damaged, has no known key, or its axes are not known.
    ResourceError
        If it would need more than ``max_bytes``.
    """
    with read_errors(path, "NumPy"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        pixels = next((key for key in PIXEL_KEYS if key in members), None)
        if pixels is None:
            listed = ", ".join(sorted(members)[:10]) or "nothing"
            raise ReadError(f"{path}: holds {listed}; name the key of the pixels {' or '.join(PIXEL_KEYS)}")
        array = _member(path, archive, members[pixels], max_bytes)
        small = {
            key: _member(path, archive, members[key], _KEY_BYTES)
            for key in ("spacing", "pixel_spacing", "times_s", "axes", "origin", "direction")
            if key in members
        }
        declared = str(small["axes"]) if "axes" in small else ""
        spacing = small.get("spacing", small.get("pixel_spacing"))
        notes = list(_notes(array))
        if spacing is not None and "spacing" not in small:
            # A foreign key: its order is not ours to know, so only equal sizes are taken.
            spacing = spacing if len(set(spacing.ravel().tolist())) == 1 else None
            notes.append(
                "the key pixel_spacing was used" if spacing is not None else "the order of pixel_spacing is not known: ignored"
            )
        checked = None if spacing is None else check_spacing(spacing.ravel().tolist(), where=f"{path}, key spacing")
        placement, plane = _position(path, checked, small)
        times = tuple(float(t) for t in small["times_s"].ravel()) if "times_s" in small else None
    return FileContent(
        path, "npz", array, declared or _default_axes(array.shape), checked, placement, plane, times_s=times, notes=tuple(notes)
    )


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


def _position(
    path: Path, spacing: tuple[float, ...] | None, keys: Mapping[Any, NDArray[Any]]
) -> tuple[Placement | None, tuple[tuple[float, ...], tuple[tuple[float, ...], ...]] | None]:
    if "origin" not in keys or "direction" not in keys:
        return None, None
    origin = tuple(float(o) for o in keys["origin"].ravel())
    if keys["direction"].shape != (len(origin), len(origin)) or len(origin) not in (2, 3):
        raise ReadError(
            f"{path}: keys origin and direction must be 2 or 3 numbers and a square matrix of as many rows; correct them"
        )
    rows = orthonormal(np.asarray(keys["direction"], np.float64), path=path)
    if len(origin) == 2:
        return None, (origin, rows)
    z, y, x = spacing if spacing is not None and len(spacing) == 3 else (1.0, *(spacing or (1.0, 1.0)))
    return Placement((z, y, x), (origin[0], origin[1], origin[2]), rows), None


def _write_frames(file: Any, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    inner = series.grid.shape if series.channels == 1 else (series.channels, *series.grid.shape)
    dtype = series.dtype.newbyteorder("=")
    header = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": (len(series), *inner)}
    npy_format.write_array_header_1_0(file, header)
    for frame in frames:
        file.write(np.ascontiguousarray(frame, dtype=dtype).tobytes())


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> NDArray[Any]:
    # Nothing is extracted to disk; the size that the inner header declares is compared before anything is unpacked.
    with archive.open(info) as file:
        shape, _, dtype = _npy_header(file)
        if dtype.kind not in "SU":
            check_dtype(path, dtype)
        declared = math.prod(shape) * dtype.itemsize
        check_declared_bytes(path, declared, info.file_size)
        check_memory(path, declared, max_bytes)
    with archive.open(info) as file:
        return np.asarray(npy_format.read_array(file, allow_pickle=False))


def _default_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3 and shape[0] not in _COLOURS and shape[-1] not in _COLOURS:
        return "TYX"
    return ""  # (3, H, W), (H, W, 3) or (10, H, W, 3) may be colour: the caller has to say


def _notes(array: NDArray[Any] | MappedArray) -> tuple[str, ...]:
    if array.nbytes == 0 or array.nbytes > 2**28 or array.dtype.kind != "i":
        return ()
    note = wrapped_note(float(array.min()), array.dtype)
    return (note,) if note else ()
