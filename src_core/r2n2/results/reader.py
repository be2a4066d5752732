"""A registered series as read back from its folder: numbers of every frame in memory, transforms on demand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid
from r2n2.quantities import LengthUnit, length_unit
from r2n2.registration.results import FrameResult
from r2n2.results.frame_metrics import FrameMetrics, read_metrics
from r2n2.results.manifest import TRUST_NAME, AcquisitionManifest, RunManifest, load_manifest
from r2n2.results.sequence_file import read_control_points, read_sequences
from r2n2.series import ImageSeries
from r2n2.transform import Transform

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RegisteredSeries",
    "StoredResults",
    "StoredTransforms",
    "StoredUncertainty",
    "field_path",
    "own_path",
    "read_result",
    "slice_folders",
    "uncertainty_path",
]


def field_path(folder: Path, frame: int) -> Path:
    """Where the displacement field of a frame is kept."""
    return folder / "fields" / f"frame_{frame:04d}.mha"


def uncertainty_path(folder: Path, frame: int) -> Path:
    """Where the map of a frame's uncertainty is kept."""
    return folder / "uncertainty" / f"frame_{frame:04d}.mha"


@dataclass(frozen=True)
class StoredUncertainty:
    """The uncertainty of a frame, its map read each time it is asked for.

    Parameters
    ----------
    folder, frame
        Of which result, and which frame.
    grid
        On which the map must lie.
    median_mm, q95_mm, uncalibrated
        As of ``Uncertainty``.
    """

    folder: Path
    frame: int
    grid: Grid
    median_mm: float
    q95_mm: float
    uncalibrated: str

    def on(self, grid: Grid) -> Tensor:
        """The radius in mm at every pixel, (*grid.shape) float32.

        Raises
        ------
        ReadError
            If the map is damaged, or lies outside the folder or on another lattice.
        """
        import torch

        from r2n2.io.scalar_maps import read_scalar_map
        from r2n2.transform import resample

        path = own_path(self.folder, uncertainty_path(self.folder, self.frame))
        values = torch.from_numpy(read_scalar_map(path, self.grid.shape).copy())
        return values if grid == self.grid else resample(values[None, None], self.grid, grid).image[0, 0]


class StoredTransforms(Mapping[int, Transform]):
    """Frame -> transform: compact ones from memory, dense ones read from their field file each time.

    Parameters
    ----------
    folder
        The result folder.
    frames
        All frames that have a transform.
    compact
        Those that are kept in memory.
    grid
        On which a field that is read must lie; None where the fields were just written.

    Raises
    ------
    ReadError
        When a field is asked for that is damaged, or lies outside the folder or on another grid.
    """

    def __init__(self, folder: Path, frames: Sequence[int], compact: Mapping[int, Transform], grid: Grid | None = None) -> None:
        self._folder = folder
        self._frames = tuple(sorted(frames))
        self._compact = compact
        self._grid = grid

    def __getitem__(self, frame: int) -> Transform:
        if frame in self._compact:
            return self._compact[frame]
        if frame not in self._frames:
            raise KeyError(frame)
        from r2n2.io.fields import read_field

        field = read_field(own_path(self._folder, field_path(self._folder, frame)))
        if self._grid is not None:
            _check_grid(field_path(self._folder, frame), field, self._grid)
        return field

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, frame: object) -> bool:
        return frame in self._frames


class StoredResults(Mapping[int, FrameResult]):
    """Frame -> its result, put together each time: the transforms are read as ``StoredTransforms`` reads them.

    Parameters
    ----------
    rows
        Frame -> its numbers.
    transforms
        Of all these frames.
    """

    def __init__(self, rows: Mapping[int, FrameMetrics], transforms: Mapping[int, Transform]) -> None:
        self._rows = rows
        self._transforms = transforms

    def __getitem__(self, frame: int) -> FrameResult:
        return self._rows[frame].result(self._transforms[frame])

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, frame: object) -> bool:
        return frame in self._rows


@dataclass(frozen=True, eq=False)
class RegisteredSeries:
    """What registering a series gave.

    Parameters
    ----------
    folder
        Where it is kept.
    manifest
        Settings, versions, hashes and geometry.
    metrics
        One a frame, in order of frames.
    transforms
        Frame -> transform that maps points of the reference into that frame.
    """

    folder: Path
    manifest: RunManifest
    metrics: tuple[FrameMetrics, ...]
    transforms: Mapping[int, Transform]

    @property
    def grid(self) -> Grid:
        """Lattice of every frame."""
        return self.manifest.input.grid.grid()

    @property
    def length_unit(self) -> LengthUnit:
        """What its lengths are shown in: um where pixels are that small."""
        return length_unit(self.manifest.input.grid.spacing)

    @property
    def lattice(self) -> ImageSeries:
        """The series without its pixels: number of frames and geometry, for what needs no more."""
        record = self.manifest.input
        empty = np.broadcast_to(np.zeros((), np.uint8), (record.frames, 1, *record.grid.shape))
        placed = None if record.patient_grid is None else record.patient_grid.grid()
        return ImageSeries(empty, self.grid, patient_grid=placed, spacing_known=record.spacing_known, source=record.source)

    @property
    def landmark_grid(self) -> Grid:
        """What ``read_landmarks`` needs: the slice's place in the patient where it is known, else the grid of the frames."""
        placed = self.manifest.input.patient_grid
        return self.grid if placed is None else placed.grid()

    @property
    def reference(self) -> int:
        """Index of the frame that all others are aligned to."""
        return self.manifest.reference

    def result(self, frame: int) -> FrameResult:
        """Numbers and transform of a frame.

        Raises
        ------
        KeyError
            If there is no such frame.
        """
        found = {metrics.frame: metrics for metrics in self.metrics}
        return replace(found[frame].result(self.transforms[frame]), uncertainty=self.uncertainty(frame))

    def trust(self) -> NDArray[np.float32] | None:
        """How much each pixel of the reference counted in the last steps, (*grid.shape) in (0, 1]; None where all counted alike.

        Raises
        ------
        ReadError
            If the map is damaged, or lies outside the folder or on another lattice.
        """
        from r2n2.io.scalar_maps import read_scalar_map

        if self.manifest.trust is None or TRUST_NAME not in self.manifest.files:
            return None
        return read_scalar_map(own_path(self.folder, self.folder / TRUST_NAME), self.grid.shape)

    def uncertainty(self, frame: int) -> StoredUncertainty | None:
        """How far the positions of a frame may be off; None where that is not known, as in results of older versions.

        Raises
        ------
        KeyError
            If there is no such frame.
        """
        row = {metrics.frame: metrics for metrics in self.metrics}[frame]
        if not math.isfinite(row.uncertainty_mm) or "uncertainty" not in self.manifest.files:
            return None
        return StoredUncertainty(self.folder, frame, self.grid, row.uncertainty_mm, row.uncertainty_95_mm, row.uncalibrated)


def read_result(folder: Path) -> RegisteredSeries:
    """The registered series of a finished folder.

    Raises
    ------
    ReadError
        If the run did not finish, a file is damaged or missing, or the folder holds several slice positions.
    """
    manifest = load_manifest(folder)
    if isinstance(manifest, AcquisitionManifest):
        raise ReadError(f"{folder}: holds several slice positions; give one of {', '.join(manifest.slices)}")
    metrics = read_metrics(own_path(folder, folder / "metrics.csv"), manifest)
    grid = manifest.input.grid.grid()
    compact: dict[int, Transform] = {}
    if "sequence.npz" in manifest.files:
        compact.update(read_sequences(own_path(folder, folder / "sequence.npz")))
    if "control_points.npz" in manifest.files:
        compact.update(read_control_points(own_path(folder, folder / "control_points.npz")))
    for frame, transform in compact.items():
        _check_grid(folder / f"frame {frame} of the transforms", transform, grid)
    return RegisteredSeries(folder, manifest, metrics, StoredTransforms(folder, [m.frame for m in metrics], compact, grid))


def own_path(folder: Path, path: Path) -> Path:
    """A path of a result, which must not lead out of its folder.

    Raises
    ------
    ReadError
        If it is a link to somewhere else.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ReadError(f"{path}: leads out of {folder}, to {path.resolve()}; a result holds its own files, copy them into it")
    return path


def _check_grid(path: Path, transform: Transform, grid: Grid) -> None:
    if not grid.same_space(transform.grid, tolerance=1e-4) or grid.shape != transform.grid.shape:
        raise ReadError(
            f"{path}: lies on another grid (shape {transform.grid.shape}, spacing {transform.grid.spacing}) than run.json says "
            f"(shape {grid.shape}, spacing {grid.spacing}); run r2n2 register again with --overwrite"
        )


def slice_folders(folder: Path) -> tuple[Path, ...]:
    """The sub-folders of an acquisition, or the folder itself where it holds one series.

    Raises
    ------
    ReadError
        If run.json is damaged, names none, or one of them is a link to somewhere else.
    """
    manifest = load_manifest(folder)
    if not isinstance(manifest, AcquisitionManifest):
        return (folder,)
    if not manifest.slices:
        raise ReadError(f"{folder}: holds no slice position that was registered; see run.json for the reasons")
    return tuple(own_path(folder, folder / name) for name in manifest.slices)
