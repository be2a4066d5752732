"""Writing MetaImage, uncompressed and little-endian, one frame in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.io.atomic import atomic_write
from r2n2.io.metaimage.header import TYPES
from r2n2.series import ImageSeries

__all__ = ["header_bytes", "write_mha"]

_NAMES = {code: name for name, code in TYPES.items() if name not in ("MET_LONG", "MET_ULONG")}
_HELD_AS = {"b1": "u1", "f2": "f4"}
_TIMES_IN_A_KEY = 100  # ITK reads a header line into a buffer of limited length


def write_mha(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write a series, one frame in memory at a time: 4D with patient position where it has one, else 3D marked as TYX."""
    code = _HELD_AS.get(series.dtype.str[1:], series.dtype.str[1:])
    dtype = np.dtype("<" + code)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_series_header(series, dtype))
        for frame in frames:
            file.write(np.ascontiguousarray(np.moveaxis(frame, 0, -1), dtype=dtype).tobytes())


def header_bytes(
    size: tuple[int, ...],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    direction: NDArray[np.float64],
    dtype: np.dtype[Any],
    components: int,
    extra: dict[str, str] | None = None,
) -> bytes:
    """Header of an uncompressed little-endian .mha; everything x-first."""

    def row(values: Any) -> str:
        return " ".join(repr(float(v)) for v in values)

    lines = {
        "ObjectType": "Image",
        "NDims": str(len(size)),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": row(direction.T.ravel()),
        "Offset": row(origin),
        "CenterOfRotation": row([0] * len(size)),
        "ElementSpacing": row(spacing),
        **(extra or {}),
        "DimSize": " ".join(map(str, size)),
        **({"ElementNumberOfChannels": str(components)} if components > 1 else {}),
        "ElementType": _NAMES[dtype.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode("ascii")


def _series_header(series: ImageSeries, dtype: np.dtype[Any]) -> bytes:
    grid = series.patient_grid or series.grid
    ndim = grid.ndim
    direction = np.eye(ndim + 1)
    direction[:ndim, :ndim] = np.array(grid.direction)[::-1, ::-1]
    times = series.times_s
    step = float(np.median(np.diff(times))) if times is not None and len(times) > 1 else 1.0
    size = (*grid.shape[::-1], len(series))
    extra = {"R2N2Axes": "TZYX" if ndim == 3 else "TYX", "R2N2SpacingKnown": str(series.spacing_known)}
    for number, start in enumerate(range(0, len(times or ()), _TIMES_IN_A_KEY)):
        extra[f"R2N2Times{number}"] = " ".join(repr(float(t)) for t in (times or ())[start : start + _TIMES_IN_A_KEY])
    spacing = (*grid.spacing[::-1], step if step > 0 else 1.0)
    return header_bytes(size, spacing, (*grid.origin[::-1], 0.0), direction, dtype, series.channels, extra)
