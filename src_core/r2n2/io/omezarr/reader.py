"""Reading OME-Zarr 0.4 and 0.5, and bare Zarr arrays whose axes are given; frames stay on disk until they are asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.checks import check_times, import_package, read_errors
from r2n2.io.omezarr.chunks import ChunkRuns
from r2n2.io.omezarr.images import find_image
from r2n2.io.omezarr.stored import check_chunks
from r2n2.io.omezarr.writing import OWN_KEY
from r2n2.io.placement import Placement, orthonormal

__all__ = ["read_zarr"]

_Plane = tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]

_ZARR_FORMAT = {"0.4": 2, "0.5": 3}
_MM_PER_UNIT = {"nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0, "centimeter": 10.0, "meter": 1e3}
_SECONDS_PER_UNIT = {"second": 1.0, "millisecond": 1e-3, "microsecond": 1e-6, "minute": 60.0, "hour": 3600.0}


def read_zarr(path: Path, axes: str | None, max_bytes: int, name: str | None = None, *, allow_missing: bool = False) -> FileContent:
    """What a Zarr folder holds: the full resolution of the first image of an OME-Zarr group, or a bare array.

    Parameters
    ----------
    name
        Of the image that is meant, where the folder holds several, as bioformats2raw writes them.

    Raises
    ------
    ReadError
        If it is unfinished, of an unknown version, holds several images, or lacks chunks and ``allow_missing`` is not set.
    ResourceError
        If one chunk needs more than ``max_bytes``.
    """
    zarr = import_package("zarr", "reading Zarr")
    with read_errors(path, "Zarr"):
        folder, node, notes = find_image(path, zarr.open(store=os.fspath(path), mode="r"), name)
        if hasattr(node, "chunks"):
            letters = _letters(getattr(node.metadata, "dimension_names", None) or (), len(node.shape))
            notes += check_chunks(path, folder, node, max_bytes, allow_missing)
            return FileContent(path, "zarr", _array(path, node, axes or letters, max_bytes), letters, notes=notes)
        attributes = dict(node.attrs)
        own = attributes.get(OWN_KEY, {})
        if own and (not isinstance(own, dict) or own.get("complete") is not True):
            raise ReadError(f"{path}: was not finished when it was written; write it again")
        version, multiscale = _multiscale(path, attributes, int(node.metadata.zarr_format))
        dataset = multiscale["datasets"][0]
        place = (folder / str(dataset["path"])).resolve()
        if folder.resolve() not in place.parents:
            raise ReadError(f"{path}: its image is said to lie in {dataset['path']!r}, outside the folder; the metadata is forged")
        found = node[str(dataset["path"])]
        notes += check_chunks(path, place, found, max_bytes, allow_missing)
        letters = _letters([axis["name"] for axis in multiscale.get("axes", [])], len(found.shape))
        array = _array(path, found, axes or letters, max_bytes)
        return _content(path, version, multiscale, dataset, array, letters, notes, own)


def _letters(names: Sequence[Any], ndim: int) -> str:
    """The axes' names as one letter each, or nothing where they are not usable."""
    letters = "".join(str(name).upper() for name in names)
    return letters if len(letters) == len(names) == ndim and set(letters) <= set("TCZYX") else ""


def _array(path: Path, array: Any, letters: str, max_bytes: int) -> ChunkRuns:
    place = letters.upper().find("T")
    return ChunkRuns(path, array, place if 0 <= place < len(array.shape) else None, max_bytes)


def _content(
    path: Path,
    version: str,
    multiscale: dict[str, Any],
    dataset: dict[str, Any],
    array: ChunkRuns,
    letters: str,
    notes: tuple[str, ...],
    own: Any,
) -> FileContent:
    axes = multiscale.get("axes", [])
    scale, shift = _transformation(path, multiscale, dataset, len(array.shape))
    units = {letter: str(axis.get("unit", "")) for letter, axis in zip(letters, axes, strict=bool(letters))}
    spacing, origin = _lengths(letters, units, scale, shift)
    times = _times(letters, units, scale, shift, array.shape)
    if letters and scale is not None and spacing is None:
        notes = (*notes, "the file names no usable unit of length")
    placement: Placement | None = None
    plane: _Plane | None = (origin[-2:], ((1.0, 0.0), (0.0, 1.0))) if origin else None
    corner = origin if origin and len(origin) == 3 else None
    if own:
        spacing, placement, plane, times = _own(path, own, letters, array.shape)
        corner = None
    return FileContent(
        path,
        "ome-zarr",
        array,
        letters,
        spacing,
        placement,
        plane,
        times,
        notes=notes,
        source={"ome_version": version},
        corner=corner,
    )


def _own(
    path: Path, own: dict[str, Any], letters: str, shape: tuple[int, ...]
) -> tuple[tuple[float, ...] | None, Placement | None, _Plane | None, tuple[float, ...] | None]:
    """Spacing, place and times from the attribute that our writer leaves."""
    where = f"{path}, attribute {OWN_KEY}"
    lacking = [key for key in ("spacing", "spacing_known", "origin", "direction", "times_s") if key not in own]
    if lacking:
        raise ReadError(f"{where}: lacks {', '.join(lacking)}; write it again")
    try:
        spacing = tuple(float(value) for value in own["spacing"])
        origin = tuple(float(value) for value in own["origin"])
        direction = np.asarray(own["direction"], np.float64)
    except (TypeError, ValueError):
        raise ReadError(f"{where}: spacing, origin and direction must be numbers; correct it") from None
    count = len(origin)
    if len(spacing) != count or count not in (2, 3) or direction.shape != (count, count) or not np.isfinite(origin).all():
        raise ReadError(f"{where}: spacing, origin and direction do not fit one another; correct it")
    if any(not math.isfinite(s) or s <= 0 for s in spacing):
        raise ReadError(f"{where}: the spacing {spacing} must be positive and finite mm; correct it")
    frames = shape[letters.index("T")] if "T" in letters else 1
    times = None if own["times_s"] is None else check_times(own["times_s"], frames, where=f"{where}, entry times_s")
    rows = orthonormal(direction, path=path)
    known = spacing if own["spacing_known"] else None
    if count == 2:
        return known, None, (origin, rows), times
    placement = Placement((spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]), rows)
    return known, placement, None, times


def _multiscale(path: Path, attributes: dict[str, Any], zarr_format: int) -> tuple[str, dict[str, Any]]:
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales")
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
    return spacing, tuple(float(shift[letters.index(a)]) * _MM_PER_UNIT[units[a]] for a in spatial)


def _times(
    letters: str, units: dict[str, str], scale: NDArray[np.float64] | None, shift: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[float, ...] | None:
    if "T" not in letters or scale is None or units["T"] not in _SECONDS_PER_UNIT:
        return None
    k, factor = letters.index("T"), _SECONDS_PER_UNIT[units["T"]]
    return tuple(float(shift[k] + scale[k] * t) * factor for t in range(shape[k]))
