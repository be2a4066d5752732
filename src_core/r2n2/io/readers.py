"""The reader of every format: from its name to what a file holds. Each is imported when needed, with its own library."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from r2n2.errors import ArgumentError
from r2n2.io.assemble import FileContent
from r2n2.io.checks import DEFAULT_MAX_BYTES, read_errors

__all__ = ["ReadOptions", "has_own_axes", "read_content"]

_READERS = {
    "nifti": "r2n2.io.nifti.reader:read_nifti",
    "mha": "r2n2.io.metaimage.reader:read_mha",
    "nrrd": "r2n2.io.nrrd.reader:read_nrrd",
    "tiff": "r2n2.io.tiff.reader:read_tiff",
    "npy": "r2n2.io.arrays.npy:read_npy",
    "npz": "r2n2.io.arrays.npy:read_npz",
    "mat": "r2n2.io.arrays.matlab:read_mat",
    "hdf5": "r2n2.io.arrays.hdf5:read_hdf5",
    "zarr": "r2n2.io.omezarr.reader:read_zarr",
    "gif": "r2n2.io.pictures.animations:read_gif",
    "apng": "r2n2.io.pictures.animations:read_apng",
    "webp": "r2n2.io.pictures.animations:read_webp",
    "video": "r2n2.io.pictures.video:read_video",
}
_NAMED = frozenset({"npz", "mat", "hdf5", "zarr", "tiff"})  # may hold several images, of which one is chosen by its name
_OWN_AXES = frozenset({"mha", "nifti", "nrrd"})  # these readers apply the caller's axes themselves
_LABELS = {"nifti": "NIfTI", "mha": "MetaImage", "nrrd": "NRRD", "tiff": "TIFF", "mat": "MATLAB", "hdf5": "HDF5", "zarr": "Zarr"}


@dataclass(frozen=True)
class ReadOptions:
    """What a caller may say about a file; see ``read_series``."""

    axes: str | None = None
    name: str | None = None
    max_bytes: int = DEFAULT_MAX_BYTES
    allow_missing: bool = False
    volumes: bool | None = None


def has_own_axes(kind: str) -> bool:
    """Whether the reader of a format has already applied the caller's axes."""
    return kind in _OWN_AXES


def read_content(kind: str, path: Path, options: ReadOptions) -> FileContent:
    """What the file at ``path``, which is of the format ``kind``, holds.

    Raises
    ------
    ReadError
        If it is damaged or ambiguous.
    ArgumentError
        If an option does not fit the format.
    ResourceError
        If it may not be read or needs more memory than allowed.
    """
    if options.name is not None and kind not in _NAMED:
        raise ArgumentError(
            f"{path}: --series picks a DICOM series or one of several images in a file, this is {kind}; leave it out"
        )
    more: dict[str, object] = {"name": options.name} if kind in _NAMED else {}
    if kind in ("zarr", "hdf5"):
        more["allow_missing"] = options.allow_missing
    module, function = _READERS[kind].split(":")
    read = getattr(importlib.import_module(module), function)
    # What a reader did not foresee is still the file's fault, not ours: it is told as such.
    with read_errors(path, _LABELS.get(kind, kind)):
        content: FileContent = read(path, options.axes, options.max_bytes, **more)
    return content
