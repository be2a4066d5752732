"""Masks read from any file that holds images or labels, put on the grid of a series by geometry, and kept with its result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.errors import AxesUnknownError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import read_series, write_series
from r2n2.io.dicom import is_segmentation
from r2n2.mask import Mask, Masks
from r2n2.results.placing import Placed, read_placed
from r2n2.results.reader import RegisteredSeries, own_path
from r2n2.series import ImageSeries
from r2n2.transform import sample_normalised

__all__ = ["MASK_NAMES", "counted_text", "kept_masks", "mask_of_slice", "read_mask", "read_masks", "write_masks"]

MASK_NAMES = {"fixed": "mask.mha", "moving": "moving_mask.mha"}
"""Name in ``Masks`` -> file in the folder of a result."""

_MANY_LABELS = 64
_SAME_PLACE = 0.05  # of a voxel


def read_masks(slices: Sequence[ImageSeries], fixed: Path | None, moving: Path | None) -> tuple[tuple[Masks, ...], tuple[str, ...]]:
    """The masks of every slice position, and what a person should know of them, one sentence each.

    Parameters
    ----------
    slices
        The series, one a slice position.
    fixed, moving
        Files of the reference's mask and of the moving frames', as of ``read_mask``; with several slice positions a volume, a 2D
        mask without a place, which is used for all, or a folder with slice_00.* ...

    Raises
    ------
    ReadError, ArgumentError
        As ``read_mask``.
    """
    found, notes = [], []
    for index, series in enumerate(slices):
        read = []
        for option, path in (("--mask", fixed), ("--moving-mask", moving)):
            place = None if path is None else mask_of_slice(path, index, len(slices))
            frames = len(series) if option == "--moving-mask" else 1
            read.append(None if place is None else read_mask(series, place, frames=frames, option=option))
        masks = Masks(*read)
        masks.check(series)
        found.append(masks)
        which = f"slice position {index}: " if len(slices) > 1 else ""
        notes += [f"{which}{mask.name}: {note}" for mask in read if mask is not None for note in mask.notes]
    if len(slices) > 1:
        shared = [path for path in (fixed, moving) if path is not None and not path.is_dir() and _has_no_place(slices[0], path)]
        notes += [f"mask {path}: one 2D mask without a place is used for all {len(slices)} slice positions" for path in shared]
    return tuple(found), tuple(notes)


def mask_of_slice(path: Path, index: int, count: int) -> Path | None:
    """The file of one slice position of ``count``: in a folder with slice_00.* the one called so, None where it is missing.

    Raises
    ------
    ReadError
        If there is nothing at ``path``.
    """
    if not path.exists():
        raise ReadError(f"mask {path}: no such file; check the path")
    if not path.is_dir() or not any(path.glob("slice_[0-9][0-9]*")):
        return path
    if count == 1:
        raise ReadError(f"mask {path}: holds masks of several slice positions, the input has one; give the file of that one")
    return next(iter(sorted(path.glob(f"slice_{index:02d}*"))), None)


def read_mask(series: ImageSeries, path: Path, *, frames: int = 1, option: str = "mask") -> Mask:
    """A mask on the grid of a series: weights in [0, 1], or labels, of which every other than 0 counts.

    Parameters
    ----------
    series
        Only its geometry is asked.
    frames
        How many masks there may be, where not just one.
    option
        What the file is called in messages, before its path.

    Raises
    ------
    ReadError
        If the file cannot be read, or holds no mask of ``series``.
    ArgumentError
        If it shows another place.
    """
    name = f"{option} {path}"
    if not path.exists():
        raise ReadError(f"{name}: no such file; check the path")
    if series.grid.ndim == 3 and path.is_file() and is_segmentation(path):
        raise ReadError(f"{name}: a DICOM segmentation is not placed in volumes yet; save it as NIfTI, MetaImage or NRRD")
    try:
        placed = read_placed(series, path, frames=frames, labels=True)
    except AxesUnknownError as question:
        raise ReadError(
            f"{name}: does not say which of its axes {question.shape} is time; give one mask of {series.grid.shape}"
            + (f", or {frames} as (time, y, x) in a format that names its axes" if frames > 1 else "")
        ) from None
    if len(placed.series) not in (1, frames):
        expected = "1 mask" if frames == 1 else f"1 mask, or {frames} (one a frame)"
        raise ReadError(f"{name}: holds {len(placed.series)} masks, expected {expected}; leave the others out")
    raw = Mask.of(np.stack([_one(placed.series.frame(k)) for k in range(len(placed.series))]), name, str(path))
    notes = [*_told(placed.notes), *_labels_note(placed.series)]
    if placed.to_index is not None:
        raw = _on_grid(raw, placed, series)
        notes.append("taken on the pixels of the series, by its place")
    return replace(raw, notes=(*notes, counted_text(raw)))


def _has_no_place(series: ImageSeries, path: Path) -> bool:
    """Whether a mask that was read holds one slice that any slice position may be."""
    if is_segmentation(path):
        return False
    try:
        found = read_series(path, volumes=False)
    except AxesUnknownError:
        return False
    return len(found) == 1 and (found[0].patient_grid is None or series.patient_grid is None)


def _told(notes: Iterable[str]) -> list[str]:
    return [note for note in notes if not note.startswith("keeps its own pixels")]


def _one(frame: NDArray[Any]) -> NDArray[Any]:
    """(C, *shape) as one channel: without alpha, the largest of the colours."""
    colours = frame[: len(frame) - 1] if len(frame) in (2, 4) else frame
    return colours[0] if len(colours) == 1 else np.asarray(colours.max(axis=0))


def _labels_note(series: ImageSeries) -> list[str]:
    first = series.frame(0)
    if first.dtype.kind not in "ui" or len(np.unique(first)) <= _MANY_LABELS:
        return []
    return [
        f"its {len(np.unique(first))} whole numbers up to {first.max()} are taken for labels, every other than 0 counts; "
        f"weights are numbers from 0 to 1"
    ]


def counted_text(mask: Mask) -> str:
    """How much of a frame counts, in words."""
    share = 100 * float(np.mean([mask.inside(k).mean() for k in range(len(mask))]))
    soft = "" if mask.weights.dtype == np.bool_ else ", by weights"
    return f"{share:.3g} % of the pixels count{soft}" + (f" (mean of {len(mask)} masks)" if len(mask) > 1 else "")


def _on_grid(mask: Mask, placed: Placed, series: ImageSeries) -> Mask:
    """Of another lattice of the same place: bool by the nearest pixel, weights between pixels; 0 beyond it.

    Raises
    ------
    ReadError
        If nothing is left.
    """
    soft = mask.weights.dtype != np.bool_
    weights: NDArray[Any] = np.zeros((len(mask), *series.grid.shape), np.float64 if soft else np.bool_)
    for row in range(series.grid.shape[0]):  # the places of all voxels of a volume at once would fill the memory
        positions, inside = _places(placed, series.grid, row)
        for k in range(len(mask)):
            image = torch.from_numpy(mask.frame(k).copy())[None, None].double()
            sampled = sample_normalised(image, positions, placed.series.grid, mode="linear" if soft else "nearest").image[0, 0, 0]
            weights[k, row] = np.where(inside, sampled.numpy() if soft else sampled.numpy() > 0.5, 0)
    return Mask.of(weights, mask.name, mask.path)


def _places(placed: Placed, grid: Grid, row: int) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """(1, ndim, 1, *shape[1:]) NORMALISED places of a row of the series on the lattice of the mask, and whether they lie on it."""
    assert placed.to_index is not None
    own = placed.series.grid
    matrix, offset = torch.from_numpy(placed.to_index).split((grid.ndim, 1), dim=1)
    axes = [torch.tensor([row], dtype=torch.float64), *(torch.arange(n, dtype=torch.float64) for n in grid.shape[1:])]
    pixels = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    index = torch.linalg.solve(matrix, pixels - offset).mT
    # Half a pixel beyond the outermost centres still belongs to the mask.
    last = torch.tensor(own.shape, dtype=torch.float64) - 1
    inside = ((index >= -0.5) & (index <= last + 0.5)).all(1).view(grid.shape[1:]).numpy()
    positions = own.convert_points(index, Space.INDEX, Space.NORMALISED).mT
    return positions.reshape(1, grid.ndim, 1, *grid.shape[1:]), inside


def write_masks(folder: Path, series: ImageSeries, masks: Masks) -> list[str]:
    """Write masks beside a result, on the geometry of its frames; gives the names of the files.

    Raises
    ------
    ResourceError
        If they cannot be written.
    """
    written = []
    for kind, file_name in MASK_NAMES.items():
        mask: Mask | None = getattr(masks, kind)
        if mask is None:
            continue
        frames = mask.weights[:, None]
        kept = replace(series, frames=frames, times_s=None, source={"format": "mha"})
        write_series(folder, file_name.removesuffix(".mha"), kept, (frames[k] for k in range(len(frames))))
        written.append(file_name)
    return written


def kept_masks(registered: RegisteredSeries) -> Masks:
    """The masks that a result was made with, as they lie in its folder.

    Raises
    ------
    ReadError
        If a file is missing, damaged or not the one that was used.
    """
    found: dict[str, Mask] = {}
    for kind, record in registered.manifest.masks.items():
        path = own_path(registered.folder, registered.folder / MASK_NAMES[kind])
        (stored,) = read_series(path, volumes=registered.grid.ndim == 3)
        weights = np.stack([_one(stored.frame(k)) for k in range(len(stored))])
        mask = Mask.of(weights, path.name, record.path)
        if mask.shape != registered.grid.shape or mask.sha256 != record.sha256:
            raise ReadError(f"{path}: not the mask that was used; run r2n2 register again with --overwrite")
        found[kind] = mask
    return Masks(**found)
