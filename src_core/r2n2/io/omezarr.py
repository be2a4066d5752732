"""Reading OME-Zarr 0.4 and 0.5, and bare Zarr arrays whose axes are given; frames stay on disk until they are asked for."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.checks import check_dtype, check_memory, import_package, read_errors
from r2n2.io.omezarr_writing import OWN_KEY, write_zarr
from r2n2.io.placement import Placement

__all__ = ["read_zarr", "write_zarr"]

_ZARR_FORMAT = {"0.4": 2, "0.5": 3}
_MM_PER_UNIT = {"nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0, "centimeter": 10.0, "meter": 1e3}
_SECONDS_PER_UNIT = {"second": 1.0, "millisecond": 1e-3, "microsecond": 1e-6, "minute": 60.0, "hour": 3600.0}


@dataclass(frozen=True, eq=False)
class _CheckedArray:
    """A Zarr array that names the chunk that cannot be decoded."""

    path: Path
    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        try:
            return np.asarray(self.array[where])
        except Exception as error:
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise ReadError(f"{self.path}: chunk {self._culprit(where)} is damaged ({reason}); get an intact copy") from error

    def _culprit(self, where: tuple[Any, ...]) -> str:
        chunks = self.array.shards or self.array.chunks
        ranges = [
            range(k // c, k // c + 1) if isinstance(k, int) else range(-(-n // c))
            for k, n, c in zip(where, self.shape, chunks, strict=True)
        ]
        for place in itertools.product(*ranges):
            try:
                self.array[tuple(slice(k * c, (k + 1) * c) for k, c in zip(place, chunks, strict=True))]
            except Exception:
                return str(self.array.metadata.encode_chunk_key(place))
        return "unknown"


def read_zarr(path: Path, axes: str | None, max_bytes: int, *, allow_missing: bool = False) -> FileContent:
    """What a Zarr folder holds: the full resolution of the first image of an OME-Zarr group, or a bare array.

    Raises
    ------
    ReadError
        If it is unfinished, of an unknown version, or lacks chunks and ``allow_missing`` is not set.
    ResourceError
        If one chunk needs more than ``max_bytes``.
    """
    zarr = import_package("zarr", "reading Zarr")
    with read_errors(path, "Zarr"):
        node = zarr.open(store=os.fspath(path), mode="r")
        if hasattr(node, "chunks"):
            array, notes = _checked(path, path, node, max_bytes, allow_missing)
            names = getattr(node.metadata, "dimension_names", None) or ()
            letters = "".join(str(n).upper() for n in names)
            usable = len(letters) == len(names) == len(node.shape) and set(letters) <= set("TCZYX")
            return FileContent(path, "zarr", array, letters if usable else "", notes=notes)
        attributes = dict(node.attrs)
        own = attributes.get(OWN_KEY, {})
        if own and own.get("complete") is not True:
            raise ReadError(f"{path}: was not finished when it was written; write it again")
        version, multiscale = _multiscale(path, attributes, int(node.metadata.zarr_format))
        dataset = multiscale["datasets"][0]
        place = (path / str(dataset["path"])).resolve()
        if path.resolve() not in place.parents:
            raise ReadError(f"{path}: its image is said to lie in {dataset['path']!r}, outside the folder; the metadata is forged")
        array, notes = _checked(path, place, node[str(dataset["path"])], max_bytes, allow_missing)
        return _content(path, version, multiscale, dataset, array, notes, own)


def _content(
    path: Path,
    version: str,
    multiscale: dict[str, Any],
    dataset: dict[str, Any],
    array: _CheckedArray,
    notes: tuple[str, ...],
    own: Any,
) -> FileContent:
    axes = multiscale.get("axes", [])
    letters = "".join(str(axis["name"]).upper() for axis in axes)
    if len(letters) != len(array.shape) or not set(letters) <= set("TCZYX"):
        letters = ""
    scale, shift = _transformation(path, multiscale, dataset, len(array.shape))
    units = {letter: str(axis.get("unit", "")) for letter, axis in zip(letters, axes, strict=bool(letters))}
    spacing, origin = _lengths(letters, units, scale, shift)
    times = _times(letters, units, scale, shift, array.shape)
    if letters and scale is not None and spacing is None:
        notes = (*notes, "the file names no usable unit of length")
    placement = None
    plane: Any = (origin, ((1.0, 0.0), (0.0, 1.0))) if origin else None
    if own:
        spacing = tuple(own["spacing"]) if own["spacing_known"] else None
        times = None if own["times_s"] is None else tuple(own["times_s"])
        rows = tuple(tuple(row) for row in own["direction"])
        placed = len(own["origin"]) == 3
        placement = Placement(tuple(own["spacing"]), tuple(own["origin"]), rows) if placed else None
        plane = None if placed else (tuple(own["origin"]), rows)
    return FileContent(
        path, "ome-zarr", array, letters, spacing, placement, plane, times, notes=notes, source={"ome_version": version}
    )


def _multiscale(path: Path, attributes: dict[str, Any], zarr_format: int) -> tuple[str, dict[str, Any]]:
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales")
    if not images:
        raise ReadError(
            f"{path}: a Zarr group without multiscales, so not an OME-Zarr image; "
            "choose the image or array inside it, and pass --axes for a bare array"
        )
    version = str(ome.get("version", images[0].get("version", "none")))
    if _ZARR_FORMAT.get(version) != zarr_format:
        raise ReadError(
            f"{path}: OME-Zarr version {version} in Zarr format {zarr_format} is not supported; "
            "convert it to 0.4 (Zarr 2) or 0.5 (Zarr 3)"
        )
    return version, images[0]


def _transformation(
    path: Path, multiscale: dict[str, Any], dataset: dict[str, Any], ndim: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    scale, shift, found = np.ones(ndim), np.zeros(ndim), False
    for step in [*dataset.get("coordinateTransformations", []), *multiscale.get("coordinateTransformations", [])]:
        kind = step.get("type")
        values = np.asarray(step.get(kind, []), dtype=np.float64)
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or values.shape != (ndim,):
            raise ReadError(f"{path}: coordinate transformation {step} is not a scale or translation of {ndim} axes; save it anew")
        if kind == "translation":
            shift = shift + values
        else:
            scale, shift, found = scale * values, shift * values, True
    return (scale if found else None), shift


def _lengths(
    letters: str, units: dict[str, str], scale: NDArray[np.float64] | None, shift: NDArray[np.float64]
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    spatial = [a for a in "ZYX" if a in letters]
    if scale is None or not spatial or any(units[a] not in _MM_PER_UNIT for a in spatial):
        return None, None
    spacing = tuple(float(scale[letters.index(a)]) * _MM_PER_UNIT[units[a]] for a in spatial)
    if any(not math.isfinite(s) or s <= 0 for s in spacing):
        return None, None
    return spacing, tuple(float(shift[letters.index(a)]) * _MM_PER_UNIT[units[a]] for a in "YX")


def _times(
    letters: str, units: dict[str, str], scale: NDArray[np.float64] | None, shift: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[float, ...] | None:
    if "T" not in letters or scale is None or units["T"] not in _SECONDS_PER_UNIT:
        return None
    k, factor = letters.index("T"), _SECONDS_PER_UNIT[units["T"]]
    return tuple(float(shift[k] + scale[k] * t) * factor for t in range(shape[k]))


def _checked(path: Path, place: Path, array: Any, max_bytes: int, allow_missing: bool) -> tuple[_CheckedArray, tuple[str, ...]]:
    check_dtype(path, array.dtype)
    chunks = tuple(array.shards or array.chunks)
    check_memory(path, math.prod(array.chunks) * np.dtype(array.dtype).itemsize, max_bytes)
    missing, first = 0, ""
    # Zarr gives the fill value for a chunk that is not there, without a word.
    for index in itertools.product(*(range(-(-n // c)) for n, c in zip(array.shape, chunks, strict=True))):
        key = str(array.metadata.encode_chunk_key(index))
        if (place / key).is_file():
            continue
        if not allow_missing:
            raise ReadError(
                f"{path}: chunk {key} is missing; get a complete copy, "
                "or pass --allow-missing where the writer leaves empty chunks out"
            )
        missing, first = missing + 1, first or key
    notes = (f"{missing} chunks are missing, {first} first: they count as {array.fill_value}",) if missing else ()
    return _CheckedArray(path, array), notes
