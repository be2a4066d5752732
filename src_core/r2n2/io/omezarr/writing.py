"""Writing OME-Zarr frame by frame; the mark that it is complete is written last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.io.atomic import atomic_folder
from r2n2.io.checks import import_package
from r2n2.series import ImageSeries

__all__ = ["OWN_KEY", "write_zarr"]

OWN_KEY = "r2n2"
"""Attribute that holds what OME-Zarr cannot: direction, uneven times, and ``complete``, without which our reader refuses."""

_LARGEST_CHUNK_SIDE = 1024


def write_zarr(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write a group of the version that was read (0.5 if none), one chunk or more a frame, each with a checksum."""
    zarr = import_package("zarr", "writing OME-Zarr")
    version = str(series.source.get("ome_version", "0.5"))
    old = version == "0.4"
    axes, scale, shape = _axes(series)
    own = _own(series)
    with atomic_folder(path) as folder:
        group = zarr.open_group(os.fspath(folder), mode="w", zarr_format=2 if old else 3)
        image = {
            "axes": axes,
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
            "name": series.name or "series",
        }
        ome = {"multiscales": [{**image, "version": version}]} if old else {"ome": {"version": version, "multiscales": [image]}}
        group.attrs.update({**ome, OWN_KEY: {"complete": False}})
        array = group.create_array(
            "0",
            shape=shape,
            chunks=(1,) * (len(shape) - 2) + tuple(min(n, _LARGEST_CHUNK_SIDE) for n in shape[-2:]),
            dtype=series.dtype.newbyteorder("="),
            config={"write_empty_chunks": True},
            **_format_options(old, axes),
        )
        for index, frame in enumerate(frames):
            array[index] = np.asarray(frame).reshape(shape[1:])
        group.attrs.update({OWN_KEY: own})


def _format_options(old: bool, axes: list[dict[str, str]]) -> dict[str, Any]:
    if old:
        numcodecs = import_package("numcodecs", "writing OME-Zarr 0.4")
        return {
            "compressors": [numcodecs.Zstd(level=3, checksum=True)],
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }
    codecs = import_package("zarr.codecs", "writing OME-Zarr")
    return {"compressors": [codecs.ZstdCodec(level=3, checksum=True)], "dimension_names": [axis["name"] for axis in axes]}


def _axes(series: ImageSeries) -> tuple[list[dict[str, str]], list[float], tuple[int, ...]]:
    times = series.times_s
    time = {"name": "t", "type": "time"} | ({"unit": "second"} if times is not None else {})
    step = float(np.median(np.diff(times))) if times is not None and len(times) > 1 else 1.0
    axes, scale, shape = [time], [step if step > 0 else 1.0], [len(series)]
    if series.channels > 1:
        axes, scale, shape = [*axes, {"name": "c", "type": "channel"}], [*scale, 1.0], [*shape, series.channels]
    unit = {"unit": "millimeter"} if series.spacing_known else {}
    grid = series.patient_grid or series.grid
    names = "zyx"[-grid.ndim :]
    axes = [*axes, *({"name": name, "type": "space"} | unit for name in names)]
    return axes, [*scale, *grid.spacing], (*shape, *grid.shape)


def _own(series: ImageSeries) -> dict[str, Any]:
    grid = series.patient_grid or series.grid
    return {
        "complete": True,
        "spacing": list(grid.spacing),
        "spacing_known": series.spacing_known,
        "origin": list(grid.origin),
        "direction": [list(row) for row in grid.direction],
        "times_s": None if series.times_s is None else list(series.times_s),
    }
