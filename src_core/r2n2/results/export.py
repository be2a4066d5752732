"""The transforms of a result written one file a frame for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2n2.errors import ArgumentError
from r2n2.io.atomic import resource_errors
from r2n2.io.itk_transforms import lattice_of, write_itk_transform
from r2n2.results.reader import RegisteredSeries
from r2n2.transform import inverse

__all__ = ["Exported", "export_transforms"]

_VOLUME_SPACING_MM = 4.0


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Parameters
    ----------
    frame, path
        Whose transform, and where.
    residual_mm
        How far an inverse is from undoing its transform; None where nothing was inverted.
    """

    frame: int
    path: Path
    residual_mm: float | None = None


def export_transforms(
    registered: RegisteredSeries,
    folder: Path,
    *,
    frames: Sequence[int],
    spacing_mm: float | None = None,
    inverted: bool = False,
    overwrite: bool = False,
) -> Iterator[Exported]:
    """Write the transform of each frame as ``frame_0000.h5``, or ``frame_0000_inverse.h5``.

    Parameters
    ----------
    registered
        The result.
    folder
        Made where it is missing.
    frames
        Whose.
    spacing_mm
        Distance of the points of the displacement field; None: that of the pixels, for volumes at least 4 mm, as a field of every
        voxel would take hundreds of MiB.
    inverted
        Points of the frame to the reference instead of the other way round.
    overwrite
        Replace files of the same name.

    Yields
    ------
    Exported
        After every file.

    Raises
    ------
    ArgumentError
        If a file is there already, the frame is not, or the spacing is not positive.
    ResourceError
        If a file cannot be written.
    """
    grid = registered.grid
    if spacing_mm is None and grid.ndim == 3:
        spacing_mm = _VOLUME_SPACING_MM
    lattice = lattice_of(grid, spacing_mm)
    paths = {frame: folder / f"frame_{frame:04d}{'_inverse' if inverted else ''}.h5" for frame in frames}
    for frame, path in paths.items():
        if frame not in registered.transforms:
            raise ArgumentError(f"frame {frame} does not exist in {registered.folder}; it has {len(registered.transforms)} frames")
        if path.exists() and not overwrite:
            raise ArgumentError(f"--output {path}: exists already; give --overwrite or another folder")
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for frame, path in paths.items():
        transform, residual = registered.transforms[frame], None
        if inverted:
            found = inverse(transform)
            transform, residual = found.field, found.residual_mm
        yield Exported(frame, write_itk_transform(path, transform, lattice), residual)
