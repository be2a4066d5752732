"""Writing a registered series in the format family of its input, frame by frame wherever the format allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError
from r2n2.io.atomic import atomic_folder, check_output_name
from r2n2.io.pictures.stack import PICTURE_KINDS
from r2n2.series import ImageSeries

__all__ = ["output_name", "write_series"]

_SUFFIXES = {
    "mha": ".mha",
    "tiff": ".tif",
    "ome-tiff": ".ome.tif",
    "imagej": ".tif",
    "npy": ".npy",
    "npz": ".npz",
    "nrrd": ".nrrd",
}


def output_name(stem: str, series: ImageSeries) -> str:
    """File name that ``write_series`` gives.

    A format that cannot hold the series gives way to one that can: GIF to a folder of .png, pictures that .png cannot hold to
    OME-TIFF, DICOM of floating point pixels and whatever is not known to NIfTI.
    """
    return stem + _suffix(series)


def write_series(folder: Path, stem: str, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> Path:
    """Write ``frames`` with the geometry, times and pixel type of ``series`` as ``stem`` in ``folder``.

    Parameters
    ----------
    series
        The input that was registered; its own frames are not written.
    frames
        As many as ``series`` has, each (C, *shape) in the dtype of ``series``.

    Returns
    -------
    Path
        The file, or the folder of DICOM files, of pictures or of a Zarr group.

    Raises
    ------
    ArgumentError
        If a frame has another shape or dtype, or their number differs.
    ResourceError
        If it cannot be written; nothing is left under the final name.
    """
    target = Path(folder) / output_name(stem, series)
    check_output_name(target.name)
    checked = _checked(series, frames)
    suffix = _suffix(series)
    # Imported when needed: each loads its own library.
    if suffix.endswith((".nii", ".nii.gz")):
        from r2n2.io.nifti.writing import write_nifti as write
    elif suffix == ".mha":
        from r2n2.io.metaimage.writing import write_mha as write
    elif suffix == ".nrrd":
        from r2n2.io.nrrd.writing import write_nrrd as write
    elif suffix.endswith(".tif"):
        from r2n2.io.tiff.writing import write_tiff as write
    elif suffix == ".zarr":
        from r2n2.io.omezarr.writing import write_zarr as write
    elif suffix == ".npy":
        from r2n2.io.arrays.npy import write_npy as write
    elif suffix == ".npz":
        from r2n2.io.arrays.npy import write_npz as write
    elif series.source["format"] == "dicom":
        write = _write_dicom
    else:
        from r2n2.io.pictures.stack import write_picture_stack as write
    write(target, series, checked)
    return target


def _suffix(series: ImageSeries) -> str:
    kind = str(series.source.get("format", ""))
    if kind in PICTURE_KINDS:
        fits = series.dtype == np.uint8 or (series.dtype == np.uint16 and series.channels == 1)
        return "" if fits and series.grid.ndim == 2 and series.channels in (1, 3, 4) else ".ome.tif"
    if kind in _SUFFIXES:
        return _SUFFIXES[kind]
    if kind in ("ome-zarr", "zarr"):
        return ".zarr"
    if kind == "dicom" and np.dtype(series.source.get("stored_dtype", "f4")).kind in "iub" and "rescale" in series.source:
        return ""
    return ".nii" if str(series.source.get("path", "")).lower().endswith(".nii") else ".nii.gz"


def _write_dicom(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    from r2n2.io.dicom.write import write_dicom_series

    with atomic_folder(path) as folder:
        write_dicom_series(folder, series, enumerate(frames))


def _checked(series: ImageSeries, frames: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    count = 0
    shape = (series.channels, *series.grid.shape)
    for frame in frames:
        if frame.shape != shape or frame.dtype.newbyteorder("=") != series.dtype.newbyteorder("="):
            raise ArgumentError(
                f"write_series: frame {count} must be {series.dtype} of shape {shape}, got {frame.dtype} of {frame.shape}"
            )
        if count == len(series):
            raise ArgumentError(f"write_series: more frames than the {len(series)} of the series were given")
        yield frame
        count += 1
    if count != len(series):
        raise ArgumentError(f"write_series: {count} frames were given, the series has {len(series)}")
