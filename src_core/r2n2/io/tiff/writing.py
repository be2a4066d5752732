"""Writing TIFF page by page as ImageJ or OME hold it; a plain TIFF gets axes and spacing in tifffile's own description."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.io.atomic import atomic_write
from r2n2.io.checks import import_package
from r2n2.series import ImageSeries

__all__ = ["write_tiff"]

_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
_NOT_IN_OME = ("int64", "uint64")
_HELD_AS = {"float16": "float32"}
_LARGEST_CLASSIC = 2**32 - 2**26


def write_tiff(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write (T, C, Y, X) in the kind of TIFF that was read, one frame in memory at a time.

    Uneven times need OME; what ImageJ cannot hold (its types are uint8, uint16 and float32, 4 GB) is written as OME. 64-bit
    integers, which OME does not know, are written as plain TIFF without times; half precision is written as single.
    """
    tifffile = import_package("tifffile", "writing TIFF")
    kind = str(series.source.get("format", "tiff"))
    letters = ("T" if series.channels == 1 else "TC") + "ZYX"[-series.grid.ndim :]
    inner = series.grid.shape if series.channels == 1 else (series.channels, *series.grid.shape)
    dtype = np.dtype(_HELD_AS.get(series.dtype.name, series.dtype.name))
    large = math.prod((len(series), *inner)) * dtype.itemsize > _LARGEST_CLASSIC
    if kind == "imagej" and (dtype.name not in _IMAGEJ_TYPES or large or series.grid.ndim == 3 or not _regular(series)):
        kind = "ome-tiff"
    if kind == "tiff" and (series.times_s is not None or path.name.endswith(".ome.tif")):
        kind = "ome-tiff"
    if kind not in ("imagej", "tiff"):
        kind = "ome-tiff"
    if dtype.name in _NOT_IN_OME and kind == "ome-tiff":
        kind = "tiff"
    options: dict[str, Any] = {"shape": (len(series), *inner), "dtype": dtype, "photometric": "minisblack"}
    metadata = {"imagej": _imagej, "ome-tiff": _ome, "tiff": _plain}[kind](series)
    if kind != "ome-tiff" and series.spacing_known:
        # ImageJ's own unit is mm here; a plain TIFF only knows pixels per cm.
        per_unit = [10.0 if kind == "tiff" else 1.0] * 2
        options["resolution"] = (per_unit[1] / series.grid.spacing[-1], per_unit[0] / series.grid.spacing[-2])
        options["resolutionunit"] = "CENTIMETER" if kind == "tiff" else "NONE"
    with (
        atomic_write(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=large, imagej=kind == "imagej", ome=kind == "ome-tiff") as writer,
    ):
        writer.write(_pages(series, frames, dtype), metadata={"axes": letters, **metadata}, **options)


def _pages(series: ImageSeries, frames: Iterator[NDArray[Any]], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for frame in frames:
        for plane in frame.reshape(-1, *series.grid.shape[-2:]):
            yield np.ascontiguousarray(plane, dtype=dtype)


def _regular(series: ImageSeries) -> bool:
    times = series.times_s
    if times is None:
        return True
    step = times[1] - times[0] if len(times) > 1 else 0.0
    return len(times) > 1 and step > 0 and all(abs(t - k * step) < 1e-9 * max(1.0, abs(t)) for k, t in enumerate(times))


def _imagej(series: ImageSeries) -> dict[str, Any]:
    metadata: dict[str, Any] = {"unit": "mm"} if series.spacing_known else {}
    if series.times_s is not None:
        metadata["finterval"] = series.times_s[1] - series.times_s[0]
    return metadata


def _ome(series: ImageSeries) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if series.spacing_known:
        for axis, size in zip("XYZ", reversed(series.grid.spacing), strict=False):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "mm"}
    if series.times_s is not None:
        planes = series.channels * (series.grid.shape[0] if series.grid.ndim == 3 else 1)
        metadata["Plane"] = {"DeltaT": [t for t in series.times_s for _ in range(planes)]}
    return metadata


def _plain(series: ImageSeries) -> dict[str, Any]:
    return {}
