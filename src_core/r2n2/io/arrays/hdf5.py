"""HDF5, and MATLAB's version 7.3 which is HDF5 with its axes reversed; no link leads out of the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import MissingExtraError, ReadError
from r2n2.io.arrays.beside import BESIDE, KEY_BYTES, array_content, image_names
from r2n2.io.assemble import FileContent
from r2n2.io.checks import check_dtype, check_memory, choose_named, import_package, read_errors

__all__ = ["read_hdf5"]

_MOST_OBJECTS = 10_000
_HELD_BYTES = 2**30
_UM = 1e-3


@dataclass(frozen=True, eq=False)
class _Dataset:
    """A data set of a file that is opened when a part is asked for."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    reverse: bool

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        h5py = import_package("h5py", "reading HDF5")
        with read_errors(self.path, "HDF5"), h5py.File(self.path, "r") as file:
            data = file[self.name]
            return np.asarray(data[tuple(reversed(where))]).T if self.reverse else np.asarray(data[tuple(where)])


def read_hdf5(path: Path, axes: str | None, max_bytes: int, name: str | None = None, *, allow_missing: bool = False) -> FileContent:
    """What an HDF5 file holds: the data set ``name``, or the only one that can be a series.

    Raises
    ------
    ReadError
        If it is damaged, holds several data sets that can be a series, or none, or its pixels lie in other files.
    MissingExtraError
        If its compression needs a package that is not installed.
    """
    h5py = import_package("h5py", "reading HDF5")
    with path.open("rb") as start:
        reverse = start.read(10) == b"MATLAB 7.3"
    with read_errors(path, "MATLAB" if reverse else "HDF5"), h5py.File(path, "r") as file:
        every = _datasets(path, file)
        chosen = choose_named(path, image_names({key: data.shape for key, data in every.items()}), name, "data sets")
        data = every[chosen]
        check_dtype(path, data.dtype)
        _check_stored(path, chosen, data, allow_missing)
        shape = tuple(int(n) for n in (data.shape[::-1] if reverse else data.shape))
        array: Any = _Dataset(path, chosen, shape, np.dtype(data.dtype), reverse)
        nbytes = math.prod(shape) * array.dtype.itemsize
        if nbytes <= min(max_bytes, _HELD_BYTES):
            array = np.asarray(data[()]).T if reverse else np.asarray(data[()])
        else:
            check_memory(path, nbytes // max(shape), max_bytes)
        folder = chosen.rpartition("/")[0]
        beside = {key: _small(path, every, f"{folder}/{key}".lstrip("/")) for key in BESIDE}
        kept = {key: value for key, value in beside.items() if value is not None}
        notes = [f"the data set {chosen} was read"]
        _from_attributes(data, kept, notes, reverse)
    usual = "YXT" if reverse else "TYX"
    return array_content(path, "mat" if reverse else "hdf5", array, kept, axes=axes, usual=usual, notes=notes)


def _datasets(path: Path, file: Any) -> dict[str, Any]:
    """Every data set of numbers inside the file; links to other files are not followed."""
    found: dict[str, Any] = {}
    seen = 0

    def visit(name: str, item: Any) -> int | None:
        nonlocal seen
        seen += 1
        if hasattr(item, "shape") and item.shape is not None and not name.startswith("#") and "MATLAB_empty" not in item.attrs:
            found[name] = item
        return None if seen < _MOST_OBJECTS else seen

    if file.visititems(visit):
        raise ReadError(f"{path}: holds more than {_MOST_OBJECTS} objects; save the series into a file of its own")
    return {name: item for name, item in found.items() if item.dtype.kind in "biufcSUO"}


def _check_stored(path: Path, name: str, data: Any, allow_missing: bool) -> None:
    """Refuse pixels that lie in other files, that were never written, or that no filter here unpacks."""
    if getattr(data, "is_virtual", False) or data.external:
        raise ReadError(f"{path}: the pixels of {name} lie in other files; save them into this one")
    h5z = import_package("h5py.h5z", "reading HDF5", "h5py")
    plist = data.id.get_create_plist()
    for k in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(k)
        if not h5z.filter_avail(code):
            shown = label.decode("latin-1") or f"number {code}"
            raise MissingExtraError(f"{path}: its compression ({shown}) needs the package hdf5plugin: pip install hdf5plugin")
    if data.chunks is None:
        missing = int(data.id.get_storage_size() == 0 and data.size > 0)
    else:
        expected = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
        missing = expected - int(data.id.get_num_chunks())
    if missing and not allow_missing:
        raise ReadError(
            f"{path}: {missing} chunks of {name} were never written; get a complete copy, or pass --allow-missing where the writer "
            "leaves empty chunks out"
        )


def _small(path: Path, every: dict[str, Any], name: str) -> NDArray[Any] | None:
    data = every.get(name)
    if data is None or data.size * max(data.dtype.itemsize, 1) > KEY_BYTES or data.is_virtual or data.external:
        return None
    value = np.asarray(data[()])
    if "MATLAB_class" in data.attrs and name.endswith("axes"):  # letters are stored as numbers there
        return np.array("".join(chr(int(code)) for code in value.ravel()[:10]))
    return value.astype(str) if value.dtype.kind in "SO" else value


def _from_attributes(data: Any, beside: dict[str, NDArray[Any]], notes: list[str], reverse: bool) -> None:
    """Names of axes and pixel size that other programs leave at the data set itself."""
    labels = [str(axis.label).upper() for axis in data.dims]
    if "axes" not in beside and not reverse and all(len(label) == 1 for label in labels) and set(labels) <= set("TCZYX"):
        beside["axes"] = np.array("".join(labels))
    size = data.attrs.get("element_size_um")
    if "spacing" not in beside and size is not None and np.size(size) in (2, 3):
        beside["spacing"] = np.asarray(size, np.float64).ravel() * _UM
        notes.append("the attribute element_size_um was used")
