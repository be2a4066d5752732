"""Where another image lies relative to a registered series: by world geometry, the slice it shows, its lattice turned or its own.

An image on the very pixels of the series is brought into their order, whichever way its rows and columns run. One on another
lattice of the same plane keeps that lattice, and the displacement is taken there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, AxesUnknownError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import read_segmentation, read_series
from r2n2.io.dicom import is_segmentation
from r2n2.quantities import length_text, spacing_text
from r2n2.results.label_values import looks_like_labels
from r2n2.results.pixel_order import rearranged
from r2n2.series import ImageSeries
from r2n2.transform import DisplacementField, Transform

__all__ = ["Placed", "place", "read_placed"]


@dataclass(frozen=True, eq=False)
class Placed:
    """An image whose relation to a registered series is known.

    Parameters
    ----------
    series
        The image; on the lattice of the registered series wherever its pixels are the same ones.
    notes
        What was decided, one sentence each.
    to_index
        (ndim, ndim + 1) from its INDEX coordinates to those of the registered series; None where both are the same.
    labels
        It holds labels, by what was asked for, its format or its values.
    """

    series: ImageSeries
    notes: tuple[str, ...] = ()
    to_index: NDArray[np.float64] | None = None
    labels: bool = False

    def transform(self, transform: Transform) -> Transform:
        """A transform of the registered series on the lattice of this image."""
        if self.to_index is None:
            return transform
        matrix, offset = torch.from_numpy(self.to_index).split((transform.grid.ndim, 1), dim=1)
        grid = self.series.grid
        axes = [torch.arange(n, dtype=torch.float64) for n in grid.shape]
        pixels = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
        index = (matrix @ pixels + offset).mT
        vectors = transform.displacement_at(transform.grid.convert_points(index, Space.INDEX, Space.NORMALISED))
        moved = transform.grid.convert_vectors(vectors.double(), Space.NORMALISED, Space.INDEX)
        own = torch.linalg.solve(matrix, moved.mT)
        return DisplacementField(own.unflatten(1, grid.shape), grid, Space.INDEX)


def place(lattice: ImageSeries, found: Sequence[ImageSeries], name: str = "the image", *, labels: bool | None = None) -> Placed:
    """The image among ``found`` that shows the slice of a registered series, and how it lies to that.

    Parameters
    ----------
    lattice
        The registered series; only its geometry is asked.
    found
        The slices of one file.
    name
        What to call it in messages.
    labels
        Whether it holds labels; None: by its values. Of labels a part of the lattice is enough: beyond it lies the label 0.

    Raises
    ------
    ArgumentError
        If none shows this slice, or it lies beside the registered images.
    """
    chosen, notes = _of_this_slice(lattice, found, name)
    if labels is None and looks_like_labels(chosen):
        labels = True
        notes = (*notes, "few whole numbers in patches are taken for labels: nearest neighbour (--image interpolates)")
    own = _grids(lattice, chosen)
    if own is None:
        return replace(_without_geometry(lattice, chosen, name, notes), labels=bool(labels))
    affine = _affine(*own)[-lattice.grid.ndim :, -lattice.grid.ndim - 1 :]
    note = _overlap_note(lattice, chosen, affine, name)
    found_there = rearranged(affine, chosen, lattice.grid.shape, part=bool(labels))
    if found_there is not None:
        frames, told = found_there
        same = _on_the_grid(lattice, replace(chosen, grid=lattice.grid, frames=frames))
        return Placed(same, (*notes, *told), labels=bool(labels))
    return Placed(chosen, (*notes, note), affine, bool(labels))


def read_placed(
    lattice: ImageSeries, path: Path, *, axes: str | None = None, frames: int = 1, labels: bool | None = None
) -> Placed:
    """Read an image or label map of any format and place it; a volume gives the slice that the series shows.

    Where the file does not say whether an axis is time or slices, the place and number of images of the registered series
    decide, if they can.

    Parameters
    ----------
    lattice
        The registered series; only its geometry is asked.
    frames
        How many images are wanted, where there is not just one.
    labels
        Whether they are labels; None: by the format or the values.

    Raises
    ------
    ReadError
        If the file cannot be read.
    ArgumentError
        If no image of it lies where the registered series does.
    """
    if path.is_file() and is_segmentation(path):
        found = read_segmentation(path)
        names = ", ".join(f"{number} {label}" for number, label in sorted(found.names.items()))
        placed = place(lattice, found.slices, path.name, labels=labels is not False)
        return replace(placed, notes=(*found.notes, f"labels are numbered by segment: {names}", *placed.notes))
    if labels is None and path.name.lower().endswith(".seg.nrrd"):
        labels = True
    try:
        found_there = read_series(path, axes=axes, volumes=lattice.grid.ndim == 3)
        return place(lattice, found_there, path.name, labels=labels)
    except AxesUnknownError as question:
        if axes is not None:
            raise
        likeliest = _likeliest(lattice, path, [letters for letters, _ in question.choices], frames, labels)
        if likeliest is None:
            raise
        return likeliest


def _likeliest(lattice: ImageSeries, path: Path, readings: Sequence[str], frames: int, labels: bool | None) -> Placed | None:
    """The one reading of a file whose images lie where the series does and are as many as wanted; None if several do.

    Raises
    ------
    ArgumentError
        If no reading does.
    """
    fitting: list[Placed] = []
    refused: ArgumentError | None = None
    for letters in readings:
        try:
            found = read_series(path, axes=letters, volumes=lattice.grid.ndim == 3)
            placed = place(lattice, found, path.name, labels=labels)
        except ArgumentError as error:
            refused = error
            continue
        except ReadError:
            continue
        if len(placed.series) in (1, frames):
            fitting.append(placed)
    if not fitting and refused is not None:
        raise refused
    alike = fitting and all(len(placed.series) == 1 for placed in fitting)
    return fitting[0] if len(fitting) == 1 or alike else None


def _of_this_slice(lattice: ImageSeries, found: Sequence[ImageSeries], name: str) -> tuple[ImageSeries, tuple[str, ...]]:
    """The one of several slices that lies where the registered series does."""
    distances = [_distance_mm(lattice, series) for series in found]
    known = [(value, k) for k, value in enumerate(distances) if value is not None]
    if not known:
        if len(found) == 1:
            return found[0], ()
        return _by_number(lattice, found, name)
    best, k = min(known)
    placed = lattice.patient_grid
    thickness = min([series.patient_grid.spacing[0] for series in found[k : k + 1] if series.patient_grid is not None], default=0.0)
    limit = min(thickness, placed.spacing[0] if placed is not None else thickness) / 2
    if best > limit * (1 + 1e-6):
        unit = lattice.length_unit
        raise ArgumentError(
            f"{name}: shows another slice, {length_text(best, unit)} away from that of the registered series"
            f"{' at the nearest' if len(found) > 1 else ''}; give an image of the same slice"
        )
    note = f"slice {k} of {len(found)} lies where the registered series does" if len(found) > 1 else ""
    return found[k], (note,) if note else ()


def _by_number(lattice: ImageSeries, found: Sequence[ImageSeries], name: str) -> tuple[ImageSeries, tuple[str, ...]]:
    source = lattice.source
    index = source.get("slice_index", source.get("slice"))
    if isinstance(index, int) and 0 <= index < len(found) == source.get("slice_count", len(found)):
        return found[index], (f"slice {index} of {len(found)} is taken, as of the registered series: positions are not known",)
    raise ArgumentError(f"{name}: holds {len(found)} slice positions, the registration one; give a file of one slice")


def _grids(lattice: ImageSeries, series: ImageSeries) -> tuple[Grid, Grid] | None:
    """Grids of the image and of the registered series in one world; None where that is not known."""
    if not series.spacing_known or not lattice.spacing_known:
        return None
    placed = lattice.patient_grid
    if lattice.grid.ndim == 2 and placed is not None and series.patient_grid is not None:
        return series.patient_grid, placed
    return (series.grid, lattice.grid) if series.grid.ndim == lattice.grid.ndim else None


def _affine(source: Grid, target: Grid) -> NDArray[np.float64]:
    """(ndim, ndim + 1) from INDEX coordinates of one grid to those of another."""
    corners = torch.cat((torch.eye(source.ndim, dtype=torch.float64), torch.zeros(1, source.ndim, dtype=torch.float64)))
    world = source.convert_points(corners, Space.INDEX, Space.WORLD)
    index = target.convert_points(world, Space.WORLD, Space.INDEX).numpy()
    return np.column_stack(((index[:-1] - index[-1]).T, index[-1]))


def _distance_mm(lattice: ImageSeries, series: ImageSeries) -> float | None:
    """How far the image's plane lies from that of the registered series at most; None where positions are not known."""
    placed = lattice.patient_grid
    if lattice.grid.ndim == 3 or placed is None or series.patient_grid is None or not series.spacing_known:
        return None
    affine = _affine(series.patient_grid, placed)
    rows, columns = series.grid.shape
    corners = np.array([[0, y, x, 1] for y in (0, rows - 1) for x in (0, columns - 1)], dtype=float)
    return float(np.abs(corners @ affine[0]).max() * placed.spacing[0])


def _on_the_grid(lattice: ImageSeries, series: ImageSeries) -> ImageSeries:
    return replace(series, grid=lattice.grid, patient_grid=lattice.patient_grid, spacing_known=lattice.spacing_known)


def _without_geometry(lattice: ImageSeries, series: ImageSeries, name: str, notes: tuple[str, ...]) -> Placed:
    if series.grid.shape != lattice.grid.shape:
        raise ArgumentError(
            f"{name}: has {series.grid.shape} pixels and no geometry that says where they lie, the registered series "
            f"{lattice.grid.shape}; resample it to the series first"
        )
    bare = "the file holds no pixel size" if not series.spacing_known else "the registered series holds no pixel size"
    return Placed(_on_the_grid(lattice, series), (*notes, f"{bare}: its pixels are taken for those of the series, one by one"))


def _overlap_note(lattice: ImageSeries, series: ImageSeries, affine: NDArray[np.float64], name: str) -> str:
    axes = [np.linspace(0, n - 1, min(n, 64)) for n in series.grid.shape]
    pixels = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(len(axes), -1)
    index = affine[:, :-1] @ pixels + affine[:, -1:]
    inside = ((index >= -0.5) & (index <= np.array(lattice.grid.shape)[:, None] - 0.5)).all(axis=0).mean()
    if inside == 0:
        raise ArgumentError(
            f"{name}: lies elsewhere (spacing {series.grid.spacing}, origin {series.grid.origin}) than the registered series "
            f"(spacing {lattice.grid.spacing}, origin {lattice.grid.origin}); check which image belongs to this series"
        )
    kept = f"keeps its own pixels of {spacing_text(series.grid.spacing)}; the series has {spacing_text(lattice.grid.spacing)}"
    return kept if inside > 0.999 else f"{kept}; {100 * (1 - inside):.0f} % of it lies outside the registered images"
