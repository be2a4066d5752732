"""Writing NIfTI frame by frame, with the position, unit and affine codes of the input."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.io.atomic import atomic_write
from r2n2.io.checks import import_package
from r2n2.series import ImageSeries

__all__ = ["COMMENT_CODE", "RAS_TO_LPS", "write_nifti"]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
COMMENT_CODE = 6
_HELD_AS = {"b1": "u1", "f2": "f4"}
_LARGEST_NIFTI1_AXIS = 32767
_COLOUR_TYPES = {3: "RGB", 4: "RGBA"}
_COMPRESSION = 5


def write_nifti(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write (x, y, z, t): one frame in memory at a time, except for several channels that are not 8-bit colour."""
    code = _HELD_AS.get(series.dtype.str[1:], series.dtype.str[1:])
    dtype = np.dtype("<" + code)
    colour = series.channels in _COLOUR_TYPES and code == "u1"
    start = _start_bytes(series, dtype, colour)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if not path.name.lower().endswith(".gz"):
            _write(file, start, series, frames, dtype, colour)
            return
        with gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as packed:
            _write(packed, start, series, frames, dtype, colour)


def _write(
    file: Any, start: bytes, series: ImageSeries, frames: Iterator[NDArray[Any]], dtype: np.dtype[Any], colour: bool
) -> None:
    file.write(start)
    if series.channels == 1 or colour:
        for frame in frames:
            file.write(np.ascontiguousarray(np.moveaxis(frame, 0, -1), dtype=dtype).tobytes())
        return
    every = [frame.astype(dtype) for frame in frames]  # the channel is the slowest axis of the file
    for channel in range(series.channels):
        for frame in every:
            file.write(np.ascontiguousarray(frame[channel]).tobytes())


def _start_bytes(series: ImageSeries, dtype: np.dtype[Any], colour: bool) -> bytes:
    nibabel = import_package("nibabel", "writing NIfTI")
    grid = series.patient_grid or series.grid
    depth = grid.shape[0] if grid.ndim == 3 else 1
    shape = [*grid.shape[:-3:-1], depth, len(series)]
    if series.channels > 1 and not colour:
        shape.append(series.channels)
    kind = nibabel.Nifti1Header if max(shape) <= _LARGEST_NIFTI1_AXIS else nibabel.Nifti2Header
    header = kind(endianness="<")
    header.set_data_shape(shape)
    header.set_data_dtype(nibabel.nifti1.data_type_codes.dtype[_COLOUR_TYPES[series.channels]] if colour else dtype)
    header.set_xyzt_units("mm", "sec" if series.times_s is not None else None)
    affine = _affine(series)
    header.set_qform(affine, int(series.source.get("qform_code", 1)))
    header.set_sform(affine, int(series.source.get("sform_code", 1)))
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header["scl_slope"], header["scl_inter"] = 1, 0
    remark: dict[str, Any] = {"spacing_known": series.spacing_known}
    if series.times_s is not None:
        steps = np.diff(series.times_s)
        header["pixdim"][4] = float(np.median(steps)) if len(steps) and np.median(steps) > 0 else 0.0
        header["toffset"] = series.times_s[0]
        remark["times_s"] = list(series.times_s)
    text = json.dumps({"r2n2": remark}).encode("ascii")
    size = -(-(len(text) + 8) // 16) * 16
    extension = b"\x01\0\0\0" + struct.pack("<ii", size, COMMENT_CODE) + text.ljust(size - 8, b"\0")
    header["magic"] = header.single_magic
    header["vox_offset"] = header.sizeof_hdr + len(extension)
    return bytes(header.binaryblock) + extension


def _affine(series: ImageSeries) -> NDArray[np.float64]:
    grid = series.patient_grid or series.grid
    ndim = grid.ndim
    lps = np.eye(4)
    lps[:ndim, :ndim] = (np.array(grid.direction) * np.array(grid.spacing))[::-1, ::-1]
    lps[:ndim, 3] = grid.origin[::-1]
    return np.asarray(RAS_TO_LPS @ lps, dtype=np.float64)
